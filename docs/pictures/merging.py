"""The number of tokens of smooth images that are left after one merge, by threshold and batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes

from tocsin.operators.merging import merge


def draw(axes: Axes) -> None:
    torch.manual_seed(0)
    octaves = [torch.randn(16, 3, scale, scale) * 4 / scale for scale in (4, 8, 16, 32, 64)]
    images = torch.stack([F.interpolate(octave, size=(224, 224), mode="bicubic") for octave in octaves]).sum(0)
    patches = F.unfold(images, 16, stride=16).mT @ torch.randn(3 * 16 * 16, 64)  # [16, 196, 64]
    thresholds = torch.linspace(0.4, 1, 31).tolist()
    for batch, colour in ((1, "tab:blue"), (4, "tab:green"), (16, "tab:orange")):
        left = [
            sum(merge(some, threshold=threshold).tokens.shape[1] for some in patches.split(batch))
            * batch
            / len(patches)
            for threshold in thresholds
        ]
        axes.plot(thresholds, left, color=colour, label=f"batch of {batch}")
    axes.axhline(98, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("threshold")
    axes.set_ylabel("tokens left of 196")
    axes.legend(loc="upper left")
    axes.set_title("A batch keeps what any of its images keeps")
