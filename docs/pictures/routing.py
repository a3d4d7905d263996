"""The keys that each query sees on the sparse path, computed by the operator itself."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.routing import sink_window_attention


def draw(axes: Axes) -> None:
    tokens, sink, window = 64, 6, 16
    zero = torch.zeros(1, 1, tokens, tokens)
    weights = sink_window_attention(zero, zero, torch.eye(tokens)[None, None], sink=sink, window=window)[0, 0]
    seen = torch.where(weights > 0, 1.0, 0.0)
    seen[torch.ones(tokens, tokens).tril().bool() & (weights == 0)] = 0.25  # dense attention would see these too
    axes.imshow(seen, cmap="Blues", vmin=0, vmax=1.3, interpolation="nearest")
    axes.text(sink / 2 - 0.5, 50, "sink", rotation=90, ha="center", va="center", color="white")
    axes.text(42, 47, "window", rotation=-45, ha="center", va="center", color="white")
    axes.text(20, 46, "dense only", ha="center")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.set_title(f"What each query sees: sink {sink}, window {window}")
