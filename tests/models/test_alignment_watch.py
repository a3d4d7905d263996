"""The watch over a rig: a reference, moves that are told from noise and from drift of light, and a new reference."""

from __future__ import annotations

import numpy as np
import pytest

from tocsin.models.alignment import watch
from tocsin.models.alignment.geometry import Matrix
from tocsin.models.alignment.watch import Verdict, Watch, WatchConfig

SIZE = (120, 160)
CONFIG = WatchConfig(references=5, recent=4)


def shifted(x: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, 0], [0, 0, 1]], float)


def run(shifts: list[float], state: Watch | None = None) -> tuple[list[Verdict], Watch]:
    state, verdicts = state or watch.blank(CONFIG), list[Verdict]()
    for shift in shifts:
        verdict, state = watch.step(state, shifted(shift), SIZE, CONFIG)
        verdicts.append(verdict)
    return verdicts, state


def test_the_first_alignments_are_the_reference_and_the_last_ones_are_compared_with_it() -> None:
    verdicts, state = run([10.0] * 9 + [14.0] * 3)
    assert [v.moved for v in verdicts[:9]] == [None] * 4 + [0.0] + [None] * 3 + [0.0]
    assert [v.shift for v in verdicts[4:9]] == pytest.approx([0.0] * 5, abs=1e-4)
    assert verdicts[9].shift == pytest.approx(4, abs=1e-3) and state.settled
    assert verdicts[9].moved == 0 and verdicts[-1].moved == pytest.approx(4, abs=1e-3)


def test_single_alignments_that_are_wrong_move_nothing() -> None:
    verdicts, _ = run([10.0, 10, 50, 10, 10] + [10.0, 10, 10, 60] * 3)
    assert {v.moved for v in verdicts} == {None, 0.0}


def test_a_move_within_the_noise_of_a_rig_is_none() -> None:
    rng = np.random.default_rng(0)
    noisy, _ = run(list(rng.normal(0, 3, 200)))
    quiet, _ = run([*rng.normal(0, 0.1, 10), *rng.normal(1.5, 0.1, 10)])
    assert max(v.moved or 0 for v in noisy) < 8 and np.mean([(v.moved or 0) == 0 for v in noisy]) > 0.8
    assert quiet[-1].moved == pytest.approx(1.5, abs=0.2)


def test_a_renewed_reference_is_where_the_rig_is_now() -> None:
    _, state = run([10.0] * 9 + [11.0] * 4)
    verdicts, _ = run([11.0], watch.renewed(state, CONFIG))
    assert verdicts[0].shift == pytest.approx(0, abs=1e-4)
