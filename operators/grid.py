"""Grid attention: patches of a sensor x time grid attend to each other, and a gate weighs the channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match


def grid_attention(q: Tensor, k: Tensor, v: Tensor, *, patch: tuple[int, int], known: Tensor | None = None) -> Tensor:
    """Attention in which a token is a patch: all cells of a block of sensors and times together.

    The score of two patches is the sum of the products of their cells, so a patch of one cell gives attention over all cells.
    Source: patch-wise multi-head attention of HELENA (channel estimation from pilots), which fills a grid of subcarriers and
    symbols. Its use for sensors and times, the cells in place of a linear projection of each patch, and `known` are this project's.

    Args:
        q, k, v: `[B, H, S, T, D]`, any float dtype; S sensors, T times.
        patch: sensors and times of a patch; they divide S and T.
        known: `[B, S, T] bool`, cells with a reading. A patch without any is attended to by none. None: all are known.

    Returns:
        `[B, H, S, T, D]`, dtype of `q`; zeros where a grid has no known cell.

    Raises:
        ValueError: if the shapes or dtypes do not fit together, or the patch does not divide the grid.
    """
    sizes = _check(q, k, v, patch, known)
    sensors, times, _ = sizes
    mask = None
    if known is not None:
        cells = known.unflatten(2, (-1, patch[1])).unflatten(1, (-1, patch[0]))  # [B, S / s, s, T / t, t]
        mask = cells.any(dim=4).any(dim=2).flatten(1)[:, None, None]  # [B, 1, 1, N]
    out = F.scaled_dot_product_attention(_patches(q, patch), _patches(k, patch), _patches(v, patch), attn_mask=mask)
    if mask is not None:  # some kernels give NaN for a query that sees nothing
        out = out.masked_fill(~mask.any(dim=-1, keepdim=True), 0)
    out = out.unflatten(3, (patch[0], patch[1], -1)).unflatten(2, (sensors // patch[0], times // patch[1]))
    return out.transpose(3, 4).flatten(4, 5).flatten(2, 3)  # [B, H, S, T, D]


def naive_grid_attention(
    q: Tensor, k: Tensor, v: Tensor, *, patch: tuple[int, int], known: Tensor | None = None
) -> Tensor:
    """`grid_attention` patch by patch: the oracle of its tests."""
    sensors, times, width = _check(q, k, v, patch, known)
    blocks = [
        (slice(s, s + patch[0]), slice(t, t + patch[1]))
        for s in range(0, sensors, patch[0])
        for t in range(0, times, patch[1])
    ]
    out = 0 * q  # of the graph, also where no patch is known
    for b in range(q.shape[0]):
        seen = [block for block in blocks if known is None or bool(known[b][block].any())]
        for h in range(q.shape[1]):
            for own in blocks if seen else []:
                scores = [(q[b, h][own] * k[b, h][other]).sum() for other in seen]
                weights = torch.softmax(torch.stack(scores) * (patch[0] * patch[1] * width) ** -0.5, dim=0)
                out[b, h][own] = sum(w * v[b, h][other] for w, other in zip(weights, seen, strict=True))
    return out


def squeeze_excitation(x: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
    """Weigh each channel by a gate that sees the means of all channels: `x * sigmoid(excite @ relu(squeeze @ mean(x)))`.

    Source: "Squeeze-and-Excitation Networks" (arXiv 1709.01507), eq. 2-4, as HELENA has it after its attention.

    Args:
        x: `[B, C, S, T]`.
        squeeze: `[R, C]`.
        excite: `[C, R]`.

    Returns:
        `[B, C, S, T]`, dtype of `x`.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    match(x=(x, "B C S T"), squeeze=(squeeze, "R C"), excite=(excite, "C R"))
    gate = torch.sigmoid(F.linear(F.relu(F.linear(x.mean(dim=(2, 3)), squeeze)), excite))
    return x * gate[..., None, None]


def naive_squeeze_excitation(x: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
    """`squeeze_excitation` channel by channel: the oracle of its tests."""
    match(x=(x, "B C S T"), squeeze=(squeeze, "R C"), excite=(excite, "C R"))
    out = torch.empty_like(x)
    for b, grid in enumerate(x):
        means = [cells.mean() for cells in grid]
        hidden = [sum(w * m for w, m in zip(row, means, strict=True)).clamp_min(0) for row in squeeze]
        for c, row in enumerate(excite):
            out[b, c] = grid[c] / (1 + torch.exp(-sum(w * h for w, h in zip(row, hidden, strict=True))))
    return out


class GridAttention(nn.Module):
    """Multi-head grid attention, then squeeze-excitation, each added to its input; see `grid_attention`.

    Args:
        channels: C, width of a cell.
        heads: number of heads, which must divide `channels`.
        patch: sensors and times of a patch.
        reduction: by which the gate's hidden width is smaller than C.
    """

    def __init__(self, *, channels: int, heads: int, patch: tuple[int, int], reduction: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads ({heads}) must divide channels ({channels})")
        self.heads, self.patch = heads, patch
        self.norm = nn.GroupNorm(1, channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.squeeze = nn.Linear(channels, max(1, channels // reduction), bias=False)
        self.excite = nn.Linear(max(1, channels // reduction), channels, bias=False)

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """`[B, C, S, T]` of `x` `[B, C, S, T]`; `known` as in `grid_attention`."""
        match(x=(x, f"B {self.project.in_channels} S T"))
        q, k, v = self.project(self.norm(x)).unflatten(1, (3, self.heads, -1)).permute(1, 0, 2, 4, 5, 3)
        out = grid_attention(q, k, v, patch=self.patch, known=known)  # [B, H, S, T, D]
        out = self.out(out.permute(0, 1, 4, 2, 3).flatten(1, 2))
        return x + squeeze_excitation(out, self.squeeze.weight, self.excite.weight)


def _patches(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """`[B, H, S, T, D]` as tokens `[B, H, N, s t D]`, N patches of s sensors and t times."""
    x = x.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))  # [B, H, S / s, s, T / t, t, D]
    return x.transpose(3, 4).flatten(4).flatten(2, 3)


def _check(q: Tensor, k: Tensor, v: Tensor, patch: tuple[int, int], known: Tensor | None) -> tuple[int, int, int]:
    sizes = match(q=(q, "B H S T D"), k=(k, "B H S T D"), v=(v, "B H S T D"))
    sensors, times = sizes["S"], sizes["T"]
    if min(patch) < 1 or sensors % patch[0] or times % patch[1]:
        raise ValueError(f"patch ({patch[0]} x {patch[1]}) must divide the grid ({sensors} sensors x {times} times)")
    if known is not None and (known.dtype != torch.bool or known.shape != (sizes["B"], sensors, times)):
        raise ValueError(f"known is {known.dtype} {list(known.shape)}, expected bool {[sizes['B'], sensors, times]}")
    return sensors, times, sizes["D"]
