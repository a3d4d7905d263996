"""The mask of a small clip: which tokens of which frames a frame sees."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from tocsin.operators.context import context_mask


def draw(axes: Axes) -> None:
    frames, tokens, special = 10, 6, 2
    seen = context_mask(frames, tokens=tokens, anchor=2, window=3, special=special)
    axes.imshow(seen, cmap=ListedColormap(["white", "tab:blue"]), aspect="equal")
    for edge in range(1, frames):
        axes.axhline(edge * tokens - 0.5, color="lightgrey", linewidth=0.5)
        axes.axvline(edge * tokens - 0.5, color="lightgrey", linewidth=0.5)
    centres = [frame * tokens + tokens / 2 - 0.5 for frame in range(frames)]
    axes.set_xticks(centres, [str(frame) for frame in range(frames)])
    axes.set_yticks(centres, [str(frame) for frame in range(frames)])
    axes.tick_params(length=0)
    axes.set_xlabel("frame of the key, 6 tokens each, 2 of them special")
    axes.set_ylabel("frame of the query")
    axes.set_title("Seen (blue): anchor of 2, window of 3, memory")
