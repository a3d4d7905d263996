"""Readings that their key's next reading must confirm: those far ahead of the key's order, and a counter's restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.dead_letter import TOO_LATE
from tocsin.pipelines.runtime.declare.durations import NEVER
from tocsin.pipelines.runtime.declare.rows import Rows, concat
from tocsin.pipelines.runtime.declare.stage import Timer
from tocsin.pipelines.runtime.declare.stores import Cell, CellStore, Declared, Pending, Stores

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.stage import StepContext

CONFIRM_MS = 7 * 86_400_000
"""How long a doubtful reading waits for its key's next one."""


@dataclass(frozen=True)
class Order:
    """The order that readings are sorted in.

    Args:
        position: rows -> `[B]` int64.
        late: how far a reading may be behind its key's newest, in positions.
        scale: positions in one unit of the column.
        newest: the newest position of each key.
    """

    position: Callable[[Rows], Tensor]
    late: int
    scale: int
    newest: CellStore


@dataclass
class _Walk:
    """What a walk through one key's readings in arrival order found.

    Args:
        reached: the key's newest position.
        line: a reading's place -> how many times the counter had restarted.
        refused: a refused reading's place -> the newest position when it was refused.
    """

    reached: int
    unconfirmed: int | None = None
    restarts: int = 0
    line: dict[int, int] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    repeated: int = 0


class Confirmation:
    """Holds back a key's doubtful reading until its next one arrives; see `Reorder`.

    Args:
        by: the column of positions; None: the event time.
        jump, restart: as in `Reorder`.
    """

    def __init__(self, by: str | None, jump: float | None, restart: float | None) -> None:
        self._by, self._jump, self._restart = by, jump, restart

    @property
    def state(self) -> Mapping[str, Declared]:
        return {"doubted_at": Cell(dtype=torch.int64, added=True), "doubted": Pending(added=True)}

    @property
    def timers(self) -> Sequence[Timer]:
        return [Timer("doubted_at", CONFIRM_MS)]

    def lines(self, rows: Rows, order: Order, state: Stores, ctx: StepContext) -> Iterator[tuple[Tensor, Rows]]:
        """The confirmed readings, in lines. A key's counter restarts between one line and the next.

        Yields:
            The slots of the keys whose counter restarts with this line, and the line's rows.
        """
        pending, pending_since = state.pending("doubted"), state.cell("doubted_at")
        if (waiting := pending.rows) is not None and bool(
            (expired := ctx.due(pending_since, CONFIRM_MS)[waiting.slots]).any()
        ):
            self._refuse(waiting.keep(expired), order.newest[waiting.slots[expired]], order, ctx)
            pending_since[waiting.slots[expired]] = 0
            pending.rows = waiting.keep(~expired)
        waiting = pending.rows
        keys = self._keys_to_check(rows, order, waiting)
        if not len(keys):
            yield keys, rows
            return
        pool = rows if waiting is None else concat([waiting, rows])
        position, is_checked = order.position(pool).tolist(), torch.isin(pool.slots, keys)
        line, waits = torch.zeros(len(pool), dtype=torch.int64), torch.arange(len(pool)) < len(pool) - len(rows)
        waits &= ~is_checked
        refused = dict[int, int]()
        for slot, reached in zip(keys.tolist(), order.newest[keys].tolist(), strict=True):
            places = (pool.slots == slot).nonzero()[:, 0].tolist()
            found = self._walk(places, position, reached, order)
            line[places] = torch.tensor([found.line.get(place, -1) for place in places])
            refused |= found.refused
            ctx.counts["duplicates"] += found.repeated
            if found.unconfirmed is not None:
                waits[found.unconfirmed] = True
        line[waits] = -1
        newly_waiting = pool.slots[waits & is_checked]
        pending_since[keys] = 0
        pending_since[newly_waiting] = ctx.clock[newly_waiting]
        places = sorted(refused)
        reached_then = torch.tensor([refused[place] for place in places], dtype=torch.int64)
        self._refuse(pool.take(torch.tensor(places, dtype=torch.int64)), reached_then, order, ctx)
        pending.rows = pool.keep(waits)
        for number in range(max(line.tolist()) + 1):
            part = pool.keep(line == number)
            yield part.slots.unique() if number else part.slots[:0], part
        if int(line.max()) < 0:
            yield keys[:0], pool.take(keys[:0])

    def _keys_to_check(self, rows: Rows, order: Order, waiting: Rows | None) -> Tensor:
        """The slots of the keys whose readings must be checked one by one."""
        if not len(rows):
            return rows.slots[:0]
        g = rows.groups()
        position = order.position(rows)[g.order]
        reached, _ = g.running_max(position, order.newest[g.slots])
        is_doubtful = torch.zeros(len(rows), dtype=torch.bool)
        if self._jump is not None:
            is_doubtful |= position > reached + round(self._jump * order.scale)
        if self._restart is not None:
            is_doubtful |= (position < reached - order.late) & (position <= round(self._restart * order.scale))
        slots = rows.slots[g.order][is_doubtful & (reached != NEVER)]
        if waiting is not None:
            slots = torch.cat([slots, waiting.slots[torch.isin(waiting.slots, g.slots)]])
        return slots.unique()

    def _walk(self, places: Sequence[int], position: Sequence[int], reached: int, order: Order) -> _Walk:
        """Walk through one key's readings."""
        walk = _Walk(reached)
        jump, restart = (None if n is None else round(n * order.scale) for n in (self._jump, self._restart))
        for place in places:
            x, known = position[place], walk.reached != NEVER
            far = known and jump is not None and x > walk.reached + jump
            back = known and restart is not None and x < walk.reached - order.late
            if walk.unconfirmed is not None:
                candidate = position[walk.unconfirmed]
                if x == candidate:
                    walk.repeated += 1
                    continue
                if x > candidate and (far if candidate > walk.reached else back):
                    walk.restarts += candidate < walk.reached
                    walk.line |= {walk.unconfirmed: walk.restarts, place: walk.restarts}
                    walk.reached, walk.unconfirmed = x, None
                    continue
                walk.refused[walk.unconfirmed] = walk.reached
                walk.unconfirmed = None
            if far or (back and restart is not None and x <= restart):
                walk.unconfirmed = place
                continue
            walk.line[place], walk.reached = walk.restarts, max(walk.reached, x)
        return walk

    def _refuse(self, rows: Rows, reached: Tensor, order: Order, ctx: StepContext) -> None:
        """Send unconfirmed readings to the dead letters; `reached`: the newest positions of their keys."""
        if not len(rows):
            return
        name, position = self._by or ctx.event_time, order.position(rows)
        ahead = position > reached
        for which, error in ((ahead, "Outlier"), (~ahead, TOO_LATE)):
            pairs = zip(reached[which].tolist(), position[which].tolist(), strict=True)
            lines = [
                f"expected {name} {self._expectation(error, n, order.scale)}, got {x / order.scale:.15g}, "
                "and the next reading did not confirm it"
                for n, x in pairs
            ]
            ctx.refuse(rows.keep(which), stage="sorted", error=error, messages=lines)

    def _expectation(self, error: str, reached: int, scale: int) -> str:
        if reached == NEVER:
            return "to follow its key's last reading, which has expired"
        after = f"after {reached / scale:.15g}"
        return after if error == TOO_LATE else f"at most {self._jump:.15g} {after}"
