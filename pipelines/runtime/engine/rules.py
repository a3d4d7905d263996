"""Alert rules over result rows: raised and cleared once per key, with hysteresis, hold and cool-down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.durations import NEVER, milliseconds
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.declare.pipeline import CLEARED, RAISED, AlertRule
from tocsin.pipelines.runtime.declare.rows import Groups
from tocsin.pipelines.runtime.declare.stores import Cell, CellStore


@dataclass(frozen=True)
class Transition:
    """A rule's condition was entered or left at a row.

    Args:
        row: index into the step's result rows.
        transition: `raised` or `cleared`.
    """

    row: int
    rule: AlertRule
    transition: str


@dataclass(frozen=True)
class _Keys:
    """A step's rows by key, as arrays.

    Attributes:
        order: `[B]`, sorts the rows by key; those of a key keep their order.
        slots: `[K]`, the keys.
        starts, ends: `[K]`, the range of each key's sorted rows.
        index: `[B]`, for each sorted row, which of the K keys it belongs to.
    """

    order: np.ndarray
    slots: Tensor
    starts: np.ndarray
    ends: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, groups: Groups) -> _Keys:
        starts, lengths = groups.starts.numpy(), groups.lengths.numpy()
        index = np.repeat(np.arange(len(starts)), lengths)
        return cls(groups.order.numpy(), groups.slots, starts, starts + lengths, index)


class RuleSet:
    """A pipeline's alert rules.

    An expression is meant to look at a single row. One that looks at other rows (`shift`, `rolling_mean`, `over`) sees only
    those in the same step.

    Args:
        rules: the rules. Alerts from one row come in their order.
        results: the columns that expressions and `data` may name.

    Raises:
        ConfigError: a name is used twice, a column is unknown, or an expression does not give one boolean per row.
    """

    def __init__(self, rules: Sequence[AlertRule], results: pa.Schema) -> None:
        names = [rule.name for rule in rules]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"alert rules: expected unique names, got {duplicates} more than once; rename them")
        for rule in rules:
            _check(rule, results)
        self._rules = tuple(rules)
        self._conditions = _conditions(self._rules)
        # `run` stops counting at `hold`, so that a long alert does not change its state at each row.
        cells = {
            "firing": Cell(dtype=torch.bool),
            "run": Cell(dtype=torch.int32),
            "rung": Cell(dtype=torch.int64, fill=NEVER),
        }
        self.state: Mapping[str, Cell] = {f"{name}/{part}": cell for name in names for part, cell in cells.items()}

    def step(
        self,
        frame: pl.DataFrame,
        groups: Groups,
        times: np.ndarray,
        state: Mapping[str, CellStore],
        muted: np.ndarray | None = None,
    ) -> list[Transition]:
        """Evaluate the rules on one step's result rows. The split into steps makes no difference.

        Args:
            frame: the result rows; those of a key are in order.
            groups: the rows by key.
            times: `[B]` int64, event time in ms; need not ascend.
            state: the stores of the cells that `self.state` declares.
            muted: `[B]` bool, rows of muted assets. They raise no alert. A rule that still holds is raised at the first row after
                them.

        Returns:
            The transitions, by row, then in the order of the rules.
        """
        keys = _Keys.of(groups)
        times = times[keys.order]
        verdicts = {column.name: column.to_numpy()[keys.order] for column in frame.select_seq(self._conditions)}
        transitions: list[Transition] = []
        for rule in self._rules:
            when = verdicts[f"{rule.name}/when"]
            clear = ~when & verdicts.get(f"{rule.name}/clear", True)
            cells = [state[f"{rule.name}/{part}"] for part in ("firing", "run", "rung")]
            stored = firing, run, last_raised = [cell[keys.slots].numpy() for cell in cells]
            if not (when.any() or firing.any() or run.any()):
                continue
            runs = _runs(when, keys, run, rule.hold)
            triggered = runs == rule.hold
            if muted is not None:
                triggered &= ~muted[keys.order]
            if cooldown := milliseconds(rule.cooldown):
                triggered = _after_cooldown(triggered, clear, times, keys, firing, last_raised, cooldown)
            before, after = _latch(triggered, clear, keys, firing)
            raised, cleared = triggered & ~before, clear & before
            transitions += [Transition(row, rule, RAISED) for row in keys.order[raised].tolist()]
            transitions += [Transition(row, rule, CLEARED) for row in keys.order[cleared].tolist()]
            last_raised = last_raised.copy()
            last_raised[keys.index[raised]] = times[raised]  # if a key has several, the last one wins
            last = keys.ends - 1
            for cell, old, new in zip(cells, stored, (after[last], runs[last], last_raised), strict=True):
                changed = old != new
                cell[keys.slots[torch.from_numpy(changed)]] = torch.from_numpy(new[changed])
        return sorted(transitions, key=attrgetter("row"))


def _check(rule: AlertRule, results: pa.Schema) -> None:
    """Check a rule by evaluating it on an empty frame."""
    empty = pl.DataFrame(results.empty_table())
    for name, expression in (("when", rule.when), ("clear", rule.clear)):
        if expression is None:
            continue
        where = f"alert rule {rule.name}: expected {name} to return one boolean per row"
        try:
            verdict = empty.select(expression)
        except pl.exceptions.PolarsError as error:
            raise ConfigError(f"{where}, got {str(error).splitlines()[0]}; correct the expression") from error
        if verdict.dtypes != [pl.Boolean]:
            got = ", ".join(f"{column} {dtype}" for column, dtype in verdict.schema.items())
            raise ConfigError(f"{where}, got {got}; compare one column with a threshold")
        if len(verdict):
            raise ConfigError(f"{where}, got one for all rows of a step; name a column and do not aggregate over rows")
    if unknown := sorted(set(rule.data) - set(results.names)):
        raise ConfigError(
            f"alert rule {rule.name}: expected data among {results.names}, got {unknown}; name result columns"
        )


def _conditions(rules: Sequence[AlertRule]) -> list[pl.Expr]:
    """Each rule's expressions, without nulls, as columns `<rule>/when` and `<rule>/clear`."""
    return [
        expression.fill_null(False).alias(f"{rule.name}/{part}")
        for rule in rules
        for part, expression in (("when", rule.when), ("clear", rule.clear))
        if expression is not None
    ]


def _runs(when: np.ndarray, keys: _Keys, run: np.ndarray, limit: int) -> np.ndarray:
    """For each row, how many consecutive rows of its key hold up to it, at most `limit`; `run`: the count before the step."""
    index = np.arange(len(when))
    gap = np.maximum.accumulate(np.where(when, -1, index))  # the last row that does not hold
    start = keys.starts[keys.index]
    return np.minimum(np.where(gap < start, index - start + 1 + run[keys.index], index - gap), limit)


def _latch(triggered: np.ndarray, clear: np.ndarray, keys: _Keys, firing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether an alert is active before and after each row. `triggered` sets it, `clear` resets it; `firing`: the initial state."""
    last = np.maximum.accumulate(np.where(triggered | clear, np.arange(len(triggered)), -1))
    after = np.where(last < keys.starts[keys.index], firing[keys.index], triggered[last])
    before = np.roll(after, 1)
    before[keys.starts] = firing
    return before, after


def _after_cooldown(
    triggered: np.ndarray,
    clear: np.ndarray,
    times: np.ndarray,
    keys: _Keys,
    firing: np.ndarray,
    last_raised: np.ndarray,
    cooldown: int,
) -> np.ndarray:
    """Which of the `triggered` rows raise an alert: those after the end of the last alert and its cool-down.

    The row that raises the next alert depends only on the row that raised the last one. So the next row is found for all
    triggered rows at once. The chain from the state before the step is then followed by pointer doubling.
    """
    rows = np.flatnonzero(triggered)
    n = len(rows)
    # Places: each triggered row, as if it raised an alert; then each key with its state before the step.
    ends = np.append(np.flatnonzero(clear), len(triggered))
    free = ends[np.searchsorted(ends, np.concatenate([rows, keys.starts]))]
    free[n:] = np.where(firing, free[n:], keys.starts)
    due = np.concatenate([times[rows], last_raised]) + cooldown
    following = _first_reaching(times[rows], np.searchsorted(rows, free), due)
    owner = np.concatenate([keys.index[rows], np.arange(len(keys.starts))])
    following[np.append(keys.index[rows], -1)[following] != owner] = n  # n: never in this step
    hop, reached = np.append(following[:n], n), np.zeros(n + 1, bool)
    reached[following[n:]] = True
    while (hop < n).any():
        reached[hop[reached]] = True
        hop = hop[hop]
    allowed = np.zeros_like(triggered)
    allowed[rows[reached[:n]]] = True
    return allowed


def _first_reaching(values: np.ndarray, start: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """For each query, the first place from `start` on whose value is at least `minimum`; `len(values)` if there is none.

    Event times of a key need not ascend, so a binary search is not possible. This skips by maxima of 2^k values instead.
    """
    n = len(values)
    maxima = [np.append(values, np.iinfo(np.int64).min)]
    for k in range(n.bit_length() - 1):
        top, span = maxima[-1], 1 << k
        maxima.append(np.append(np.maximum(top[:-span], top[span:]), top[-span:]))
    index = start
    for k in reversed(range(len(maxima))):
        index = np.where(maxima[k][index] < minimum, np.minimum(index + (1 << k), n), index)
    return index
