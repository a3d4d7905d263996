"""A trained damage model: a picture in, what is damaged in it, and where, out."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tocsin.models.damage import closer
from tocsin.models.damage.config import DamageConfig
from tocsin.models.damage.frames import CELL, Plan, batch, plan, thin
from tocsin.models.damage.network import CLASSES, DamageNetwork, Judged
from tocsin.models.damage.trunk import Seen, Trunk
from tocsin.models.files import read_weights
from tocsin.models.trained import WEIGHTS_FILE, Stored, fill, placed
from tocsin.models.vision.appearance import Eye
from tocsin.models.vision.picture import Picture, scaled
from tocsin.operators.budget import refine

SHIPPED = Path(__file__).parent / "weights" / "walls"
TOGETHER = 4
"""Patches that are looked at in one pass: more do not fit a CPU's caches."""


class Finding(NamedTuple):
    """What was found in a picture.

    Args:
        classes: `[4]`, the probability of each of `CLASSES`.
        places: `[3, h, w]`, the probability of each damage at each place.
        extent: share of the places that are damaged, 0 to 1.
        looks: patches that were looked at closely, and all patches.
    """

    classes: NDArray[np.float32]
    places: NDArray[np.float32]
    extent: float
    looks: tuple[int, int]

    @property
    def score(self) -> float:
        """The probability that something is damaged."""
        return float(1 - self.classes[0])

    @property
    def kind(self) -> str:
        """The most probable damage, whatever its probability."""
        return CLASSES[1 + int(self.classes[1:].argmax())]


class DamageModel(Stored[DamageConfig]):
    """Trunk, network and patch budget in one.

    Args:
        config: its encoder's version names the weights that the network was trained on.
        network: is set to evaluation mode and frozen.
        trunk: of the pictures.

    Raises:
        ValueError: the network was trained on another encoder.
    """

    def __init__(self, config: DamageConfig, network: DamageNetwork, trunk: Trunk) -> None:
        if config.encoder not in ("", trunk.version):
            raise ValueError(
                f"the model was trained on encoder {config.encoder}, got {trunk.name} {trunk.version}; "
                "use that one, or train the model on this one"
            )
        self.weights = nn.ModuleDict({"network": network}).requires_grad_(False)
        super().__init__(replace(config, encoder=trunk.version), self.weights, trunk.device)
        self.network, self.trunk = network, trunk

    @cached_property
    def usual(self) -> Eye | None:
        """Compares frames with those of training; None: the model does not know them."""
        return Eye(self.config.appearance) if self.config.appearance else None

    def plan(self, shape: tuple[int, int]) -> Plan:
        """How a picture of `shape` is looked at."""
        c = self.config
        return plan(shape, small=c.small, large=c.large, finest=c.finest)

    @torch.inference_mode()
    def judge(self, pictures: Tensor) -> tuple[Seen, Judged]:
        """Look at pictures `[B, 3, H, W] uint8` whose sides are multiples of 16."""
        seen = self.trunk(pictures)
        return seen, self.network(seen)

    @torch.inference_mode()
    def __call__(self, picture: Picture, *, budget: float | None = None, order: Tensor | None = None) -> Finding:
        """Look at a picture `[H, W, 3]` RGB of any size.

        Args:
            budget: share of a large picture's patches that are looked at closely; None: the model's own.
            order: `[P]`, takes the place of the confidence, the lowest first; for comparisons.
        """
        c, looks = self.config, self.plan((picture.shape[0], picture.shape[1]))
        _, judged = self.judge(batch([scaled(picture, looks.size)]))
        total = len(looks.corners)
        count = round((c.budget if budget is None else budget) * total)
        if not count:
            return self._found(judged.places[0], judged.pictures, (0, total))
        fine = scaled(picture, (looks.size[0] * looks.finer, looks.size[1] * looks.finer))
        if order is None:
            order = self.confidence(judged, thin(fine, looks.grid), looks)
        logits = [judged.pictures]

        def look(numbers: Tensor) -> Tensor:
            closely = self.looks(fine, looks, numbers)
            logits.append(closely.pictures)
            return closely.places

        places = refine(self.enlarged(judged, looks), order, looks.corners, look, count=count)
        return self._found(places, torch.cat(logits), (min(count, total), total))

    def confidence(self, judged: Judged, lines: Tensor, looks: Plan) -> Tensor:
        """How sure it is that a close look at each patch would find nothing, `[P]`; `lines` are those of `frames.thin`."""
        side = looks.side[0] // looks.finer, looks.side[1] // looks.finer
        suspects = closer.suspect(judged.places[0], lines.to(self.trunk.device))
        return closer.confidence(suspects, looks.corners // looks.finer, side).cpu()

    def enlarged(self, judged: Judged, looks: Plan) -> Tensor:
        """The logits of the coarse look at the places of the close one, `[3, h, w]`."""
        return closer.enlarged(judged.places[0], (looks.grid[0] * looks.finer, looks.grid[1] * looks.finer))

    def looks(self, fine: Picture, looks: Plan, numbers: Tensor) -> Judged:
        """Look closely at patches of a picture in the size of the close look."""
        rows, columns = (CELL * n for n in looks.side)
        parts = []
        for some in numbers.split(TOGETHER):
            cut = [fine[y : y + rows, x : x + columns] for y, x in (CELL * looks.corners[some]).tolist()]
            parts.append(self.judge(batch(cut))[1])
        return Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _found(self, places: Tensor, pictures: Tensor, looks: tuple[int, int]) -> Finding:
        """Judge by the logits of places `[3, h, w]`, and of the coarse and all close looks `[N, 4]`: any of them may see damage."""
        damaged = places.amax(0).sigmoid() >= self.config.place
        classes = F.softmax(pictures.amax(0), 0)
        return Finding(classes.cpu().numpy(), places.sigmoid().cpu().numpy(), float(damaged.float().mean()), looks)


def load(directory: Path | str = SHIPPED, device: str = "auto") -> DamageModel:
    """Read a model.

    Raises:
        ValueError: the model was trained on another encoder than the one found here.
    """
    config = DamageConfig.load(Path(directory))
    model = DamageModel(config, DamageNetwork(config.network), Trunk(placed(device)))
    weights = read_weights(Path(directory) / WEIGHTS_FILE)
    # Earlier versions also learned the order and the context of close looks.
    fill(
        model.weights, {name: part for name, part in weights.items() if not name.startswith("closer.")}, Path(directory)
    )
    return model
