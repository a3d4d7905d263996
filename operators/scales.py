"""Multi-scale excitation: depthwise convolutions of several sizes side by side, a gate for channels and one for places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.grid import squeeze_excitation
from tocsin.operators.shapes import match


def multi_scale(x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """Convolve each channel with one kernel of each size, and put the results side by side.

    Source: MS-SSE-Net (arXiv 2604.14711), whose parallel depthwise convolutions follow a DenseNet. Its details are not published:
    sizes, order and mixing are this project's.

    Args:
        x: `[B, C, H, W]`, any float dtype. On a CPU, `torch.channels_last` is twice as fast to train.
        kernels: each `[C, k, k]`, k odd.

    Returns:
        `[B, K * C, H, W]`, dtype of `x`: channel c of kernel n is at `n * C + c`. Outside the picture are zeros.

    Raises:
        ValueError: the shapes or dtypes do not fit together, or a size is even.
    """
    _check(x, kernels)
    groups = x.shape[1]
    return torch.cat([F.conv2d(x, k[:, None], padding=k.shape[-1] // 2, groups=groups) for k in kernels], 1)


def naive_multi_scale(x: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """`multi_scale` kernel by kernel, place by place: the oracle of its tests."""
    _check(x, kernels)
    rows, columns = x.shape[2:]
    parts = []
    for kernel in kernels:
        reach = kernel.shape[-1] // 2
        padded = F.pad(x, 4 * [reach])
        out = torch.zeros_like(x)
        for dy in range(2 * reach + 1):
            for dx in range(2 * reach + 1):
                out = out + kernel[:, dy, dx][:, None, None] * padded[:, :, dy : dy + rows, dx : dx + columns]
        parts.append(out)
    return torch.cat(parts, 1)


def spatial_excitation(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Weigh each place by a gate that sees the mean and the maximum over channels around it.

    `x * sigmoid(conv([mean_c(x), max_c(x)]) + bias)`. Source: CBAM (arXiv 1807.06521), eq. 3, as MS-SSE-Net has it.

    Args:
        x: `[B, C, H, W]`.
        kernel: `[2, k, k]`, k odd; the first is for the mean.
        bias: `[]`.

    Returns:
        `[B, C, H, W]`, dtype of `x`.

    Raises:
        ValueError: the shapes or dtypes do not fit together, or the size is even.
    """
    _check_spatial(x, kernel)
    seen = torch.stack([x.mean(1), x.amax(1)], 1)  # [B, 2, H, W]
    return x * torch.sigmoid(F.conv2d(seen, kernel[None], padding=kernel.shape[-1] // 2) + bias)


def naive_spatial_excitation(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """`spatial_excitation` place by place: the oracle of its tests."""
    _check_spatial(x, kernel)
    reach, out = kernel.shape[-1] // 2, torch.empty_like(x)
    for b, picture in enumerate(x):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                score = bias
                for dy in range(-reach, reach + 1):
                    for dx in range(-reach, reach + 1):
                        y, z = row + dy, column + dx
                        if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                            mean, most = picture[:, y, z].mean(), picture[:, y, z].max()
                            score = score + kernel[0, dy + reach, dx + reach] * mean
                            score = score + kernel[1, dy + reach, dx + reach] * most
                out[b, :, row, column] = picture[:, row, column] / (1 + torch.exp(-score))
    return out


class MultiScaleExcitation(nn.Module):
    """Multi-scale depthwise convolutions, mixed, gated by channel and by place, added to the input.

    Args:
        channels: C.
        sizes: of the kernels, odd.
        reduction: by which the channel gate's hidden width is smaller than C.
        gates: without them, the block only mixes scales.
    """

    def __init__(
        self, *, channels: int, sizes: Sequence[int] = (3, 5, 7), reduction: int = 4, gates: bool = True
    ) -> None:
        super().__init__()
        for size in sizes:
            if size % 2 == 0:
                raise ValueError(f"sizes: expected odd numbers, got {size}; take {size + 1}")
        self.norm = nn.GroupNorm(1, channels)
        self.kernels = nn.ParameterList(nn.Parameter(torch.randn(channels, size, size) / size) for size in sizes)
        self.mix = nn.Conv2d(len(sizes) * channels, channels, 1)
        hidden, self.gates = max(1, channels // reduction), gates
        self.squeeze = nn.Linear(channels, hidden, bias=False) if gates else None
        self.excite = nn.Linear(hidden, channels, bias=False) if gates else None
        self.look = nn.Parameter(torch.randn(2, 7, 7) / 20) if gates else None
        self.bias = nn.Parameter(torch.ones(())) if gates else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` of `x` `[B, C, H, W]`."""
        match(x=(x, f"B {self.mix.out_channels} H W"))
        out: Tensor = self.mix(F.gelu(multi_scale(self.norm(x), [*self.kernels])))
        if self.squeeze is not None and self.excite is not None and self.look is not None and self.bias is not None:
            out = squeeze_excitation(out, self.squeeze.weight, self.excite.weight)
            out = spatial_excitation(out, self.look, self.bias)
        return x + out


def _check(x: Tensor, kernels: Sequence[Tensor]) -> None:
    if not kernels:
        raise ValueError("kernels: expected at least one, got none")
    match(
        x=(x, "B C H W"),
        **{f"kernels[{n}]": (kernel, f"C {kernel.shape[-1]} {kernel.shape[-1]}") for n, kernel in enumerate(kernels)},
    )
    for number, kernel in enumerate(kernels):
        if kernel.shape[-1] % 2 == 0:
            raise ValueError(f"kernels[{number}] is {list(kernel.shape)}, expected [C, k, k] with an odd k")


def _check_spatial(x: Tensor, kernel: Tensor) -> None:
    match(x=(x, "B C H W"), kernel=(kernel, "2 K K"))
    if kernel.shape[-1] % 2 == 0:
        raise ValueError(f"kernel is {list(kernel.shape)}, expected [2, k, k] with an odd k")
