"""Attention to present hands against torch's multi-head attention with a key padding mask over all frames."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.cases.meter import Row, compare
from tocsin.operators.hands import HandCrossAttention


def rows(*, quick: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    layer = HandCrossAttention(dim=64 if quick else 768).eval()
    padded = Padded(layer).eval()
    frames = 4 if quick else 40
    scene, hands = torch.randn(frames, 49, layer.dim), torch.randn(frames, 2, 49, layer.dim)
    for share in (0.5,) if quick else (0.25, 0.5, 1.0):
        present = (torch.arange(frames) < share * frames)[:, None] & torch.tensor([True, True])
        present[::3, 1] = False
        with torch.inference_mode():
            ours, reference = layer(scene, hands, present), padded(scene, hands, present)
        apart = (ours - reference)[present.any(1)].abs().max().item()
        changed = [int((out != scene)[~present.any(1)].flatten(1).any(1).sum()) for out in (ours, reference)]
        yield compare(
            "hands / nn.MultiheadAttention",
            f"{frames} frames, {share:.0%} with hands",
            lambda present=present: layer(scene, hands, present),
            lambda present=present: padded(scene, hands, present),
            quality=f"frames without hands changed: {changed[0]}, the other {changed[1]}; elsewhere apart by {apart:.0e}",
        )


class Padded(nn.Module):
    """The same block with the same weights, built on torch's multi-head attention."""

    def __init__(self, layer: HandCrossAttention) -> None:
        super().__init__()
        self.layer = layer
        self.attention = nn.MultiheadAttention(layer.dim, layer.heads, batch_first=True)
        with torch.no_grad():
            parts = (layer.query, layer.key, layer.value)
            self.attention.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
            self.attention.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
            self.attention.out_proj.load_state_dict(layer.out.state_dict())

    def forward(self, scene: Tensor, hands: Tensor, present: Tensor) -> Tensor:
        layer = self.layer
        q = layer.before_attention(scene) + layer.scene_positions
        k = (hands + layer.hand_positions + layer.identity).flatten(1, 2)
        absent = ~present.repeat_interleave(hands.shape[2], dim=1)
        context, _ = self.attention(q, k, hands.flatten(1, 2), key_padding_mask=absent, need_weights=False)
        x = scene + context
        return x + layer.feed_forward(x)
