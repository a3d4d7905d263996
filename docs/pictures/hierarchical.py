"""The weights of one query over spans of similar tokens in noise: of each level alone, and mixed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes

from tocsin.operators.hierarchical import downsample, hierarchical_attention


def draw(axes: Axes) -> None:
    torch.manual_seed(1)
    tokens, levels = 64, 3
    kinds = torch.tensor([0, 1, 0, 2, 1, 2, 0, 1]).repeat_interleave(8)  # spans of 8 tokens of one kind
    clean = torch.eye(16)[kinds] * 2.4
    sides = []
    for _ in range(2):  # queries and keys: the same kinds with independent noise
        scales = [(clean + torch.randn(tokens, 16) * 0.6)[None]]
        for _ in range(levels - 1):
            scales.append(downsample(scales[-1], torch.full((2, 16), 0.5)))
        # Identity values make the output equal the weights. They are as wide as the sequence, so queries and keys are padded
        # to that width, which also sets the scale of the scores.
        sides.append([2 * F.pad(s, (0, tokens - 16)).unsqueeze(1) for s in scales])  # [1, 1, T / 2^l, T]
    queries, keys = sides
    values = torch.eye(tokens)[None, None]
    mixes = {f"level {n}": torch.eye(levels)[n] for n in range(levels)} | {"mixed": torch.tensor([0.4, 0.3, 0.3])}
    for (name, mix), colour in zip(mixes.items(), ("tab:blue", "tab:green", "tab:purple", "tab:orange"), strict=True):
        weights = hierarchical_attention(queries, keys, values, mix[None])[0, 0, 54]
        axes.step(
            range(tokens), weights, where="mid", label=name, color=colour, linewidth=2.5 if name == "mixed" else 1
        )
    for begin in range(0, tokens, 8):
        if kinds[begin] == kinds[54]:
            axes.axvspan(begin - 0.5, begin + 7.5, color="grey", alpha=0.15, linewidth=0)
    axes.set_xlim(-0.5, 55.5)
    axes.set_xlabel("key")
    axes.set_ylabel("weight")
    axes.legend()
    axes.set_title("Weights of token 54; grey: spans of its own kind")
