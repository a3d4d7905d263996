"""DINOv2 and DINOv3 vision transformers, with weights from a directory that the user provides."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.models.trained import CONFIG_FILE, WEIGHTS_FILE
from tocsin.models.vision.backbone import Backbone
from tocsin.models.vision.published import Settings, Weights, settings
from tocsin.operators.merging import Merged, merge, restore

MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
"""Of ImageNet, on a scale of 0 to 255; both families were trained with them."""


class Block(nn.Module):
    """A pre-norm block: attention, then an MLP, each with a residual; layer scale is folded into `out` and `down`."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.heads, self.gated, self.activation = s.heads, s.gated, F.silu if s.activation == "silu" else F.gelu
        self.before_attention = nn.LayerNorm(s.width, eps=s.epsilon)
        self.project = nn.Linear(s.width, 3 * s.width)
        self.out = nn.Linear(s.width, s.width)
        self.before_mlp = nn.LayerNorm(s.width, eps=s.epsilon)
        self.up = nn.Linear(s.width, (1 + s.gated) * s.hidden)
        self.down = nn.Linear(s.hidden, s.width)

    def attend(self, tokens: Tensor, rotation: Tensor | None, sizes: Tensor | None = None) -> Tensor:
        """The first half of the block.

        Args:
            tokens: `[B, N, D]`.
            rotation: `[2, N, D / heads]`, cosines and sines that rotate queries and keys; None for no rotation.
            sizes: `[B, N]`, how many tokens each stands for, and counts as in attention; None for one each.
        """
        qkv = self.project(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, D / H]
        if rotation is not None:
            q, k = _turned(q, rotation), _turned(k, rotation)
        bias = None if sizes is None else sizes.log().to(q.dtype)[:, None, None]
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return tokens + self.out(context.transpose(1, 2).flatten(2))

    def transform(self, tokens: Tensor) -> Tensor:
        """The second half of the block, the MLP: on each token of `[B, N, D]` independently."""
        wide = self.up(self.before_mlp(tokens))
        if self.gated:
            gate, wide = wide.chunk(2, -1)
            wide = self.activation(gate) * wide
        else:
            wide = self.activation(wide)
        return tokens + self.down(wide)


class VisionTransformer(nn.Module):
    """The transformer for frames of one size.

    The class token and the registers take part in attention; they are not among the patches that are returned.
    Source: DINOv2 (arXiv 2304.07193), its registers (arXiv 2309.16588), DINOv3 (arXiv 2508.10104).

    Args:
        s: settings from `config.json`.
        grid: (h, w) of the patches.
        threshold: merge tokens in each block between attention and MLP, see `tocsin.operators.merging.merge`, and restore them at
            the end; None for no merging. With merging, images are processed one by one: in a batch, each depends on the others.
        class_token: whether `pooled` is the class token instead of the mean of the patches.
    """

    positions: Tensor | None
    rotation: Tensor | None

    def __init__(
        self, s: Settings, grid: tuple[int, int], *, threshold: float | None = None, class_token: bool = False
    ) -> None:
        super().__init__()
        n, self.front, self.threshold, self.class_token = math.prod(grid), 1 + s.registers, threshold, class_token
        self.patches = nn.Conv2d(3, s.width, s.patch, s.patch)
        self.prefix = nn.Parameter(torch.empty(1, self.front, s.width))
        self.register_buffer("positions", None if s.rope else torch.empty(1, n, s.width))
        self.register_buffer("rotation", torch.empty(2, self.front + n, s.width // s.heads) if s.rope else None)
        self.blocks = nn.ModuleList(Block(s) for _ in range(s.depth))
        self.norm = nn.LayerNorm(s.width, eps=s.epsilon)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised frames `[B, 3, H, W]` -> tokens `[B, h * w, D]` and pooled `[B, D]`."""
        patches = self.patches(frames).flatten(2).transpose(1, 2)  # [B, h * w, D]
        if self.positions is not None:
            patches = patches + self.positions
        tokens = torch.cat((self.prefix.expand(len(patches), -1, -1), patches), dim=1)
        if self.threshold is None:
            for block in cast(Iterable[Block], self.blocks):
                tokens = block.transform(block.attend(tokens, self.rotation))
        else:
            tokens = torch.cat([self._merging(image, self.threshold) for image in tokens.split(1)])
        tokens = self.norm(tokens)
        patches = tokens[:, self.front :].float()
        return patches, tokens[:, 0] if self.class_token else patches.mean(1)

    def _merging(self, tokens: Tensor, threshold: float) -> Tensor:
        """Run the blocks on one image `[1, N, D]`, with fewer tokens after each; a merged token keeps its target's position."""
        merges: list[Merged] = []
        sizes, rotation, front = None, self.rotation, self.front
        for block in cast(Iterable[Block], self.blocks):
            tokens = block.attend(tokens, rotation, sizes)
            merged = merge(tokens, sizes, threshold=threshold, protected=front)
            tokens, sizes = block.transform(merged.tokens), merged.sizes
            if rotation is not None:
                kept_rotation = rotation[:, front + 1 :: 2][:, merged.kept]
                rotation = torch.cat((rotation[:, :front], rotation[:, front::2], kept_rotation), dim=1)
            merges.append(merged)
        for merged in reversed(merges):
            tokens = restore(tokens, merged)
        return tokens


def backbone(
    directory: Path, size: tuple[int, int], *, merge: float | None = None, class_token: bool = False
) -> Backbone:
    """Load the vision transformer in a directory as a backbone for frames of `size` (H, W).

    Args:
        directory: holds `config.json` and `model.safetensors` as published for transformers' `Dinov2Model`,
            `Dinov2WithRegistersModel` and `DINOv3ViTModel`. The weights must be in a single file.
        size: multiples of the patch, 14 or 16 pixels. Positions are interpolated (DINOv2) or computed (DINOv3).
        merge, class_token: see `VisionTransformer`.

    Raises:
        ValueError: if a file is missing or not as published, the threshold is negative, or the patch does not divide the size.
    """
    for path in (directory / CONFIG_FILE, directory / WEIGHTS_FILE):
        if not path.is_file():
            raise ValueError(f"{directory} has no {path.name}, expected {CONFIG_FILE} and {WEIGHTS_FILE}")
    if merge is not None and merge < 0:
        raise ValueError(f"merge is {merge}, expected a cosine of at least 0")
    s = settings(directory / CONFIG_FILE)
    if any(n < s.patch or n % s.patch for n in size):
        nearest = tuple(max(round(n / s.patch), 1) * s.patch for n in size)
        raise ValueError(f"size is {size}, expected multiples of the patch, {s.patch}; the nearest is {nearest}")
    grid = (size[0] // s.patch, size[1] // s.patch)
    with torch.device("meta"):
        network = VisionTransformer(s, grid, threshold=merge, class_token=class_token)
    network.load_state_dict(_state(s, Weights(directory / WEIGHTS_FILE), grid), assign=True)
    options = ("" if merge is None else f"-merge{merge:g}") + ("-class" if class_token else "")
    return Backbone(
        network=network,
        name=directory.resolve().name + options,
        version=_digest(directory / CONFIG_FILE, directory / WEIGHTS_FILE)[:12],
        size=size,
        grid=grid,
        width=s.width,
        mean=MEAN,
        std=STD,
    )


def _state(s: Settings, weights: Weights, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Map the published weights to the names of `VisionTransformer`."""
    names, d, state = s.names, s.width, {}
    state["patches.weight"], state["patches.bias"] = weights.layer(names.patches, d, 3, s.patch, s.patch)
    prefix = weights.take("embeddings.cls_token", 1, 1, d)
    if s.rope is None:
        positions = weights.take("embeddings.position_embeddings", 1, 1 + s.side**2, d)
        prefix = prefix + positions[:, :1]
        state["positions"] = _interpolated(positions[:, 1:], s, grid)
    else:
        state["rotation"] = _rotation(grid, s.width // s.heads, base=s.rope, front=1 + s.registers)
    registers = [weights.take("embeddings.register_tokens", 1, s.registers, d)] if s.registers else []
    state["prefix"] = torch.cat((prefix, *registers), dim=1)
    for i in range(s.depth):
        block = _block(s, weights, names.block.format(i))
        state |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    state["norm.weight"], state["norm.bias"] = weights.layer(names.norm, d)
    weights.finish()
    return state


def _block(s: Settings, weights: Weights, block: str) -> dict[str, Tensor]:
    """Map a block's weights to the names of `Block`.

    Queries, keys and values share one matrix, as do gate and gated. Layer scales are folded in.
    """
    names, d = s.names, s.width

    def layer(name: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return weights.layer(f"{block}.{name}", rows, columns, bias=name not in s.unbiased)

    def joined(parts: tuple[str, ...], rows: int) -> list[Tensor]:
        layers = [layer(part, rows // len(parts), d) for part in parts]
        return [torch.cat(tensors) for tensors in zip(*layers, strict=True)]

    def scaled(name: str, columns: int, scale: str) -> list[Tensor]:
        factor = weights.take(f"{block}.{scale}.lambda1", d)
        weight, bias = layer(name, d, columns)
        return [weight * factor[:, None], bias * factor]

    parts = {
        "before_attention": weights.layer(f"{block}.norm1", d),
        "project": joined((names.query, names.key, names.value), 3 * d),
        "out": scaled(names.out, d, "layer_scale1"),
        "before_mlp": weights.layer(f"{block}.norm2", d),
        "up": joined(names.gated if s.gated else (names.up,), (1 + s.gated) * s.hidden),
        "down": scaled(names.gated_down if s.gated else names.down, s.hidden, "layer_scale2"),
    }
    return {
        f"{name}.{kind}": t for name, pair in parts.items() for kind, t in zip(("weight", "bias"), pair, strict=True)
    }


def _interpolated(positions: Tensor, s: Settings, grid: tuple[int, int]) -> Tensor:
    """Interpolate learned positions `[1, side * side, D]` to another grid: `[1, h * w, D]`."""
    if grid == (s.side, s.side):
        return positions
    image = positions.unflatten(1, (s.side, s.side)).permute(0, 3, 1, 2)  # [1, D, side, side]
    return F.interpolate(image, grid, mode="bicubic", antialias=s.antialias).flatten(2).transpose(1, 2)


def _rotation(grid: tuple[int, int], head: int, *, base: float, front: int) -> Tensor:
    """Cosines and sines of rotary positions: `[2, front + h * w, head]`; the tokens in front are not rotated.

    The centre of a patch has coordinates in -1..1. Each axis rotates half of the channel pairs, at periods from 1 up to `base`.
    Source: DINOv3 (arXiv 2508.10104), in the form of its published code.
    """
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in grid)
    frequencies = 2 * math.pi / base ** (torch.arange(head // 4) / (head // 4))
    angles = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)[..., None] * frequencies  # [h, w, 2, head / 4]
    angles = F.pad(angles.flatten(2).flatten(0, 1), (0, 0, front, 0)).tile(2)
    return torch.stack((angles.cos(), angles.sin()))


def _turned(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate `[B, H, N, D / H]`: channel i and the one half the width further are a pair."""
    a, b = x.chunk(2, -1)
    cos, sin = rotation
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).to(x.dtype)


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
