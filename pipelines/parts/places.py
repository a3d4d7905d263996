"""How pipelines of cameras know places again: a bounded memory of what each camera has seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tocsin.models.vision.places import FEATURES, SAME, View, common, recognised, view
from tocsin.pipelines.runtime import NEVER, Cell, Declared, Rows, Stage, StepContext, Stores

EVERY = 500
"""Milliseconds from one look at a camera to the next."""
COLUMNS = (
    pa.field("place", pa.int64()),
    pa.field("revisit", pa.bool_()),
    pa.field("since", pa.timestamp("ms", tz="UTC")),
)
"""The result columns: the number of the place in sight, counted from the camera's first; whether the camera has come back to it;
and when the place was first seen. All are null where nothing can be recognised."""


class Places(Stage):
    """Adds `COLUMNS`: which place each camera is at, and whether it has come back; and `keep`, true for a place's first frame.

    A camera is looked at twice a second. A frame that shows none of the remembered places is a new one. If there are too many, the
    one that was seen least recently is forgotten.

    Args:
        most: places that are remembered of a camera.
        away: ms for which a place must have been out of sight before it counts as come back to.
        grey: the tensor of grey frames, `[B, H, W] uint8`.
    """

    def __init__(self, *, most: int, away: int, grey: str = "grey") -> None:
        self._most, self._away, self._grey = most, away, grey

    @property
    def state(self) -> Mapping[str, Declared]:
        return {
            "points": Cell((self._most, FEATURES, 2), torch.int16),
            "marks": Cell((self._most, FEATURES, 32), torch.uint8),
            "counts": Cell((self._most,), torch.int64),
            "numbers": Cell((self._most,), torch.int64),
            "first": Cell((self._most,), torch.int64, NEVER),
            "last": Cell((self._most,), torch.int64, NEVER),
            "here": Cell(dtype=torch.int64, fill=-1),
            "back": Cell(dtype=torch.bool),
            "known": Cell(dtype=torch.int64),
            "looked": Cell(dtype=torch.int64, fill=NEVER),
        }

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        count = len(rows)
        places: list[int | None] = [None] * count
        back: list[bool | None] = [None] * count
        since: list[datetime | None] = [None] * count
        keep = [False] * count
        times = ctx.times(rows).tolist()
        for slot, indices in rows.by_key():
            camera = _Camera(state, slot, self._away)
            for row in indices:
                keep[row] = camera.look(times[row], rows.tensors[self._grey][row])
                if camera.here >= 0:
                    places[row], back[row] = camera.number, camera.back
                    since[row] = datetime.fromtimestamp(camera.first / 1000, UTC)
            camera.store()
        columns = zip(COLUMNS, (places, back, since), strict=True)
        table = {field.name: pa.array(values, field.type) for field, values in columns}
        return rows.with_columns({**table, "keep": pa.array(keep)})


class _Camera:
    """What is remembered of a camera."""

    def __init__(self, state: Stores, slot: Tensor, away: int) -> None:
        self._cells, self._slot, self._away = state.cells, slot, away
        self._learned = False
        self._marks, self._points = (self._read(name) for name in ("marks", "points"))
        self._counts, self._numbers, self._first, self._last = (
            self._read(name) for name in ("counts", "numbers", "first", "last")
        )
        scalars = (self._cells[name][slot].item() for name in ("here", "back", "known", "looked"))
        self.here, back, self._known, self._looked = (int(value) for value in scalars)
        self.back = bool(back)

    def _read(self, name: str) -> NDArray[Any]:
        return self._cells[name][self._slot][0].numpy()

    @property
    def number(self) -> int:
        """Of the place that is in sight."""
        return int(self._numbers[self.here])

    @property
    def first(self) -> int:
        """When the place that is in sight was first seen, ms."""
        return int(self._first[self.here])

    def look(self, time: int, grey: Tensor) -> bool:
        """Look at a frame, unless the camera was looked at just before. A clock that goes back does not stop the looks.

        Returns:
            Whether the place is new.
        """
        if self._looked != NEVER and self._looked <= time < self._looked + EVERY:
            return False
        self._looked = time
        seen = view(grey.numpy())
        if self.here >= 0 and common(seen, self._view(self.here)) >= SAME:
            self._last[self.here] = time
            return False
        at = recognised(seen, self._marks, self._points, self._counts)
        new = at is None and seen.number >= SAME
        if at is not None:
            self.back = self.back or bool(self._last[at] + self._away <= time)
        elif new:
            at, self.back = int(self._last.argmin()), False
            self._marks[at], self._points[at], self._counts[at] = seen.marks, seen.points, seen.number
            self._known, self._learned = self._known + 1, True
            self._numbers[at], self._first[at] = self._known, time
        self.here = -1 if at is None else at
        if at is not None:
            self._last[at] = time
        return new

    def _view(self, at: int) -> View:
        return View(self._points[at], self._marks[at], int(self._counts[at]))

    def store(self) -> None:
        """Write what has changed."""
        arrays = {"points": self._points, "marks": self._marks, "counts": self._counts, "numbers": self._numbers}
        arrays = {**arrays, "first": self._first} if self._learned else {}
        for name, values in {**arrays, "last": self._last}.items():
            self._cells[name][self._slot] = torch.from_numpy(values)[None]
        for name, value in {"here": self.here, "back": self.back, "known": self._known, "looked": self._looked}.items():
            self._cells[name][self._slot] = value
