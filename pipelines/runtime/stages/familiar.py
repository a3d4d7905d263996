"""Tells frames that are like those that a model was trained on from those of a camera that is dark, covered or upside down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER
from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import StepContext
from tocsin.pipelines.runtime.declare.stores import Cell, Declared, Stores
from tocsin.pipelines.runtime.stages.frames import Pixels

SOONEST, LATEST, PART = 250, 4_000, 8
"""A camera is looked at again when a `PART`th of the time since its first look has passed, between these, ms."""
LOOKS = 4
"""Looks before a verdict."""
AVERAGED = 8
"""Looks over which the excess is averaged, about: the first two seconds, half a minute later on."""
BACK = -0.25
"""Average excess below which a statistic is usual again."""


class Usual(Protocol):
    """What is usual for frames."""

    @property
    def statistics(self) -> Sequence[str]:
        """The names of S statistics."""
        ...

    def measure(self, picture: NDArray[np.uint8], file: bytes) -> Tensor:
        """The statistics of a picture `[H, W, 3]` RGB that came as `file`, `[S] float32`, NaN where not known."""
        ...

    def excess(self, values: Tensor) -> Tensor:
        """How far statistics `[S]` are outside what is usual, `[S]` from -1 (well inside) to 1 (well outside); NaN stays."""
        ...

    def said(self, at: int, value: float) -> str:
        """A statistic that is outside, for a person."""
        ...


class Familiar(Pixels):
    """As `Pixels`, and adds `in_domain`, whether a camera's last frames are like the training data, and `unlike`, what is not.

    Both are null until the camera was looked at a few times. It is looked at now and then, more often in the beginning, and each
    statistic's excess is averaged over the last looks. So it takes up to half a minute until a camera that was turned counts as
    unlike, and a hand before the lens does not.

    Args:
        field: as for `Pixels`.
        usual: None: the model does not know what is usual, and both columns stay null.
        file: column of the frames' files.
    """

    def __init__(self, field: pa.Field, usual: Usual | None, *, file: str) -> None:
        super().__init__(field)
        self._usual, self._file = usual, file

    @property
    def state(self) -> Mapping[str, Declared]:
        if self._usual is None:
            return {}
        size = (len(self._usual.statistics),)
        return {
            "excess": Cell(size, added=True),
            "value": Cell(size, added=True),
            "outside": Cell(size, torch.bool, added=True),
            "looks": Cell(dtype=torch.int64, added=True),
            "first": Cell(dtype=torch.int64, fill=NEVER, added=True),
            "last": Cell(dtype=torch.int64, fill=NEVER, added=True),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        rows = super().step(rows, state, ctx)
        verdicts: list[bool | None] = [None] * len(rows)
        reasons: list[str | None] = [None] * len(rows)
        if self._usual:
            times = ctx.times(rows).tolist()
            for slot, places in rows.by_key():
                camera = Camera(self._usual, state, slot)
                for place in places:
                    if camera.due(times[place]):
                        camera.look(times[place], self._measured(rows, place))
                    verdicts[place], reasons[place] = camera.verdict
                camera.store()
        return rows.with_columns(
            {"in_domain": pa.array(verdicts, pa.bool_()), "unlike": pa.array(reasons, pa.string())}
        )

    def _measured(self, rows: Rows, place: int) -> Tensor:
        assert self._usual
        picture = rows.tensors["pixels"][place].permute(1, 2, 0).numpy()
        return self._usual.measure(picture, rows.table.column(self._file)[place].as_py())


class Camera:
    """What is remembered of a camera."""

    def __init__(self, usual: Usual, state: Stores, slot: Tensor) -> None:
        self._usual, self._cells, self._slot, self._changed = usual, state.cells, slot, False
        read = {name: cell[slot][0] for name, cell in self._cells.items()}
        self.excess, self.value, self.outside = read["excess"], read["value"], read["outside"]
        self.looks, self.first, self.last = (int(read[name]) for name in ("looks", "first", "last"))

    def due(self, time: int) -> bool:
        """Whether a frame at `time`, ms, is to be looked at. A clock that goes back does not stop the looks."""
        pause = min(max((self.last - self.first) // PART, SOONEST), LATEST)
        return self.first == NEVER or not self.last <= time < self.last + pause

    def look(self, time: int, values: Tensor) -> None:
        """Take up the statistics of a frame."""
        self.first, self.last = time if self.first == NEVER else self.first, time
        self.looks, self._changed = self.looks + 1, True
        excess = self._usual.excess(values)
        moved = self.excess + (excess - self.excess) * max(1 / AVERAGED, 1 / self.looks)
        self.excess = torch.where(excess.isnan(), self.excess, moved)
        self.value = torch.where(values.isnan(), self.value, values)
        self.outside = (self.excess > 0) | (self.outside & (self.excess > BACK))

    @property
    def verdict(self) -> tuple[bool | None, str | None]:
        """Whether the frames are like the training data, and else what is not; None: not known yet."""
        if self.looks < LOOKS:
            return None, None
        if not bool(self.outside.any()):
            return True, None
        at = int(torch.where(self.outside, self.excess, -2).argmax())
        return False, self._usual.said(at, float(self.value[at]))

    def store(self) -> None:
        """Write what has changed."""
        for name in self._cells if self._changed else ():
            value = getattr(self, name)
            self._cells[name][self._slot] = value if isinstance(value, int) else value[None]
