"""A trained tampering model: frames of cameras in, whether they show what is there, and where not, out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.tampering.config import TamperingConfig
from tocsin.models.tampering.measures import APPEARANCE, GRID, MOTION, PRINT, SIZE, Measured, film, measured
from tocsin.models.tampering.memory import FEATURES, UNITS, Evidence, Memory, compared, step
from tocsin.models.tampering.network import TamperingNetwork
from tocsin.models.tampering.simulation.attacks import KINDS
from tocsin.models.trained import Stored, placed, restore

SHIPPED = Path(__file__).parent / "weights" / "cameras"
TOGETHER = 64
"""Frames that are judged in one pass: more do not fit a CPU's caches."""


class Verdict(NamedTuple):
    """The verdict on B frames.

    Args:
        score: `[B]`, the probability that a frame is tampered with.
        places: `[B, *GRID]`, that of each place.
        kind: `[B]`, the number in `KINDS` of the known attack that is most alike.
    """

    score: Tensor
    places: Tensor
    kind: Tensor


class TamperingModel(Stored[TamperingConfig]):
    """The network and its settings. It is small, so it runs on the CPU.

    Args:
        config: its settings.
        network: is set to evaluation mode and frozen.
    """

    size = SIZE
    kinds = KINDS

    def __init__(self, config: TamperingConfig, network: TamperingNetwork) -> None:
        super().__init__(config, network, placed("cpu"))
        self.network = network.requires_grad_(False)

    def measure(self, picture: NDArray[np.uint8], before: NDArray[np.uint8] | None) -> Measured:
        """Measure a frame `[*SIZE, 3]`, given the grey frame before it, `[*SIZE]`, if there is one."""
        return measured(picture, before)

    def blank(self, count: int) -> Memory:
        """The memory of `count` cameras before their first frame."""
        return Memory.blank(count, self.config.memory)

    def compare(self, memory: Memory, appearance: Tensor, motion: Tensor, prints: Tensor) -> tuple[Evidence, Memory]:
        """Compare one frame of each of B cameras with its memory, and remember it; see `tocsin.models.tampering.memory.step`."""
        return step(memory, appearance, motion, prints, self.config.memory)

    @torch.inference_mode()
    def __call__(self, evidence: Evidence) -> Verdict:
        """Judge frames, each by its own evidence."""
        parts = [Verdict(evidence.seen[:0].float(), evidence.features[:0, 0, 0], evidence.seen[:0])]
        for at in torch.arange(len(evidence.seen)).split(TOGETHER) if len(evidence.seen) else ():
            judged = self.network(evidence.features[at], evidence.seen[at])
            parts.append(Verdict(judged.frames.sigmoid(), judged.places.sigmoid(), judged.kinds.argmax(1)))
        return Verdict(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def watch(self, pictures: Iterable[NDArray[np.uint8]]) -> Verdict:
        """Judge the frames of one camera from its first one on, `[*SIZE, 3]` each; none is kept, so a film may be long."""
        seen, found = compared(film(pictures), self.config.memory), [self(self.unseen())]
        while some := [*islice(seen, TOGETHER)]:
            found.append(self(Evidence(*map(torch.cat, zip(*some, strict=True)))))
        return Verdict(*map(torch.cat, zip(*found, strict=True)))

    def unmeasured(self) -> Measured:
        """The measures of no frames."""
        shapes = ((len(APPEARANCE), *GRID), (len(MOTION), *GRID), PRINT)
        kinds = np.float32, np.float32, np.int8
        return Measured(*(np.zeros((0, *shape), kind) for shape, kind in zip(shapes, kinds, strict=True)))

    def unseen(self) -> Evidence:
        """The evidence of no frames."""
        return Evidence(torch.zeros(0, len(UNITS), len(FEATURES), *GRID), torch.zeros(0, dtype=torch.int64))


def load(directory: Path | str = SHIPPED, device: str = "auto") -> TamperingModel:
    """Read a model that `TamperingModel.save` or training wrote; it runs on the CPU, whatever the device."""
    config = TamperingConfig.load(Path(directory))
    network = TamperingNetwork(config.network)
    restore(network, Path(directory))
    return TamperingModel(config, network)
