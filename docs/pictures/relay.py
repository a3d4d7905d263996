"""The weights of three slots over time, with a gap between two of them, for a soft tail and for a very short one."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from tocsin.operators.relay import relay_attention


def draw(axes: Axes) -> None:
    times = torch.linspace(0, 24, 481)
    intervals = torch.tensor([[0.0, 8.0], [8.0, 14.0], [17.0, 24.0]])
    q, k = torch.zeros(1, 1, len(times), 3), torch.zeros(1, 1, 3, 3)  # equal scores: only time decides
    for tail, style in ((2.0, "-"), (0.1, ":")):
        weights = relay_attention(q, k, torch.eye(3)[None, None], times, intervals, tail=tail)[0, 0]
        for slot, colour in enumerate(("tab:blue", "tab:orange", "tab:green")):
            label = f"slot {slot + 1}" if tail == 2.0 else None
            axes.plot(times, weights[:, slot], style, color=colour, label=label)
            if tail == 2.0:
                axes.axvspan(*intervals[slot].tolist(), color=colour, alpha=0.1)
    axes.set_xlabel("hour")
    axes.set_ylabel("weight")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("Weights of three slots over time: tail 2 h, dotted 0.1 h")
