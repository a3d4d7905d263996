"""Mixes the frames of a window: a U-net of gated convolutions over time that ignores absent frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tocsin.operators.shapes import match


class Gated(nn.Module):
    """Gates a frame's own features by the window's mean, and its near and far neighbours by the frame itself.

    `fc(x) * relu(gfc(mean x)) + (near(x) + far(x)) * psi(x)`, with depthwise convolutions. Source: the SGP layer of TriDet, as HiCE
    (arXiv 2604.12343) uses it. The layers' widths, and that `psi` is a convolution, are a reconstruction.

    Args:
        dim: channels.
        kernel: frames, odd, that `near` and `psi` cover; reach: `far` covers this many times as far to either side.
    """

    def __init__(self, *, dim: int, kernel: int, reach: int) -> None:
        super().__init__()
        # LayerNorm normalizes each frame alone. A GroupNorm's statistics would include absent frames.
        self.norm = nn.LayerNorm(dim)
        self.fc, self.gfc = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.near, self.far, self.psi = (
            nn.Conv1d(dim, dim, 2 * side + 1, padding=side, groups=dim)
            for side in (kernel // 2, reach * (kernel // 2), kernel // 2)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, L, dim]` -> the same; `mask` is `[B, L, 1] bool`."""
        x = self.norm(x) * mask
        mean = x.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        over_time = x.mT
        window = (self.near(over_time) + self.far(over_time)) * self.psi(over_time)
        return self.fc(x) * torch.relu(self.gfc(mean)) + window.mT


class SGPBlock(nn.Module):
    """Scalable-granularity perception: `Gated` and a feed-forward layer, each with a residual connection.

    Args:
        dim, kernel, reach: see `Gated`.
        expansion: width of the feed-forward layer, over `dim`.
        dropout: share of its outputs dropped in training.
    """

    def __init__(self, *, dim: int, kernel: int, reach: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.gated = Gated(dim=dim, kernel=kernel, reach=reach)
        self.feed_forward = _feed_forward(dim, expansion, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`[B, L, dim]` -> the same; `mask` is `[B, L, 1] bool`."""
        x = x + self.gated(x, mask)
        return x + self.feed_forward(x)


class SGPMixer(nn.Module):
    """An `SGPBlock` of two inputs: a window, and the output of the level with half its resolution. Arguments as in `SGPBlock`.

    Each input goes through its own `Gated`, and a linear layer joins them. How they are joined is a reconstruction.
    """

    def __init__(self, *, dim: int, kernel: int, reach: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.fine, self.coarse = (Gated(dim=dim, kernel=kernel, reach=reach) for _ in range(2))
        self.join = nn.Linear(2 * dim, dim)
        self.feed_forward = _feed_forward(dim, expansion, dropout)

    def forward(self, x: Tensor, half: Tensor, mask: Tensor) -> Tensor:
        """`[B, L, dim]` and `[B, L / 2, dim]` -> `[B, L, dim]`; `mask` is `[B, L, 1] bool`."""
        coarse = half.repeat_interleave(2, dim=1)
        gated = torch.cat([self.fine(x, mask) + x, self.coarse(coarse, mask) + coarse], dim=-1)
        x = x + self.join(gated)
        return x + self.feed_forward(x)


class Mixer(nn.Module):
    """The U-net: `layers` times a block and max-pooling by 2, a block at the bottom, and `layers` mixers up with skip connections.

    Source: the ED-SGP-Mixer of T-DEED and HiCE (arXiv 2604.12343).

    Args:
        layers: halvings of the window.
        dim, kernel, reach, expansion, dropout: see `SGPBlock`.
    """

    def __init__(self, *, layers: int, dim: int, kernel: int, reach: int, expansion: int, dropout: float) -> None:
        super().__init__()
        options = {"dim": dim, "kernel": kernel, "reach": reach, "expansion": expansion, "dropout": dropout}
        self.down = nn.ModuleList(SGPBlock(**options) for _ in range(layers))  # type: ignore[arg-type]
        self.bottom = SGPBlock(**options)  # type: ignore[arg-type]
        self.up = nn.ModuleList(SGPMixer(**options) for _ in range(layers))  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix the frames that are present.

        Args:
            x: `[B, L, dim]`, L a multiple of `2 ** layers`; values of absent frames, even NaN, are ignored.
            mask: `[B, L] bool`, True where a frame is present.

        Returns:
            `[B, L, dim]`, undefined for absent frames.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        length, multiple = match(x=(x, "B L D"), mask=(mask, "B L"))["L"], 2 ** len(self.down)
        if length % multiple:
            raise ValueError(
                f"x has {length} frames, expected a multiple of {multiple}: it is halved {len(self.down)} times"
            )
        present = mask[..., None]
        x = torch.where(present, x, 0)
        skips = []
        for block in self.down:
            x = block(x, present)
            skips.append((x, present))
            x, present = _halved(x, present)
        x = self.bottom(x, present)
        for block, (fine, present) in zip(self.up, reversed(skips), strict=True):
            x = block(fine, x, present)
        return x


def _halved(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The element-wise maximum of each two frames, absent ones left out; zeros if both are absent."""
    pairs = x.masked_fill(~mask, -torch.inf).unflatten(1, (-1, 2)).amax(2)
    any_present = mask.unflatten(1, (-1, 2)).any(2)
    return torch.where(any_present, pairs, 0), any_present


def _feed_forward(dim: int, expansion: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, expansion * dim),
        nn.GELU(),
        nn.Linear(expansion * dim, dim),
        nn.Dropout(dropout),
    )
