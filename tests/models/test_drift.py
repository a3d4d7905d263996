"""Drift of readings from training: found where sensors shift, not where a fleet is only younger, and not with too few readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tocsin.models.drift import LEAST, Distribution
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives
from tocsin.models.rul.model import FD001, load
from tocsin.models.rul.reference import AGES, BINS, GROUPS, Reference
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.models.trained import WEIGHTS_FILE

CONFIG = RulConfig(key="unit", order="cycle", features=("s4", "s11", "s15"))


def _distribution(counts: NDArray[np.float64]) -> Distribution:
    groups, _, columns, _ = counts.shape
    names = [f"c{n}" for n in range(columns)]
    return Distribution(counts=counts, groups=["g"] * groups, columns=names, levels={5: 1.0, 20: 0.25})


def test_the_index_is_that_of_the_textbook_by_one_plain_loop() -> None:
    rng = np.random.default_rng(0)
    trained, seen = rng.integers(50, 500, (2, 1, 3, 4)), rng.integers(300, 900, (2, 1, 3, 4))
    index = _distribution(trained.astype(float)).index(seen)
    for g in range(2):
        for c in range(3):
            e = [n / sum(trained[g, 0, c]) for n in trained[g, 0, c]]
            o = [n / sum(seen[g, 0, c]) for n in seen[g, 0, c]]
            assert index[g, c] == pytest.approx(sum((b - a) * np.log(b / a) for a, b in zip(e, o, strict=True)))


def test_strata_in_other_shares_are_no_drift() -> None:
    trained = np.array([[[[900.0, 100.0]], [[100.0, 900.0]]]])  # [1, 2 strata, 1, 2]
    young = np.array([[[[9000, 1000]], [[0, 0]]]])
    assert _distribution(trained).index(young) == pytest.approx(0)
    assert _distribution(trained).index(young[:, ::-1]) > 1  # the readings of young ones at an old age
    unknown = np.array([[[[0.0, 0.0]], [[100.0, 900.0]]]])  # training had no young ones, so nothing is said of them
    assert np.isnan(_distribution(unknown).index(young)).all()


def test_too_few_readings_or_assets_say_nothing() -> None:
    reference = _distribution(np.full((1, 1, 1, 2), 500.0))
    assert np.isnan(reference.index(np.full((1, 1, 1, 2), LEAST // 2 - 1))).all()
    assert reference.index(np.full((1, 1, 1, 2), LEAST // 2)) == pytest.approx(0)
    assert [reference.level(n) for n in (4, 5, 19, 20, 900)] == [None, 1.0, 1.0, 0.25, 0.25]


def _fleet(engines: int, seed: int) -> Lives:
    return lives(run_to_failure(engines=engines, seed=seed).select(*CONFIG.types, "rul"), CONFIG)


def _index(reference: Reference, fleet: Lives, shift: float = 0.0) -> float:
    rows = fleet.rows.clone()
    rows[:, 1] += shift
    distribution = reference.distribution(CONFIG.features)
    assert distribution
    return float(distribution.index(reference.count(rows, torch.zeros(len(rows)).long(), fleet.age).numpy()).max())


def test_a_fleet_of_young_engines_has_not_drifted_and_one_with_a_shifted_sensor_has() -> None:
    torch.manual_seed(0)
    trained = _fleet(40, 0)
    scaling = Scaling.fit(trained, settings=0, regimes=1)
    reference = Reference.fit(trained, scaling)
    assert reference.counts.sum() == len(trained) * 3 and reference.counts.shape == (1, AGES, 3, BINS)
    known = reference.levels[: GROUPS.index(20) + 1]
    assert bool(known.isfinite().all()) and bool(
        reference.levels[len(known) :].isinf().all()
    )  # of 50 there are not enough
    assert bool((known[:-1] >= known[1:]).all())  # fewer engines differ more
    level, other = float(known[-1]), _fleet(40, 1)
    fresh = other.where(other.age <= 40)
    assert max(_index(reference, other), _index(reference, fresh)) < level
    assert _index(reference, other, shift=float(scaling.deviation[0, 1])) > 1.5 * level


def test_weights_from_before_there_was_a_reference_load_and_are_not_watched(tmp_path: Path) -> None:
    weights = load_file(FD001 / WEIGHTS_FILE)
    assert load(FD001, "cpu").reference.distribution() is not None
    for file in FD001.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file({n: t for n, t in weights.items() if not n.startswith("reference.")}, tmp_path / WEIGHTS_FILE)
    assert load(tmp_path, "cpu").reference.distribution() is None
    save_file({n: t for n, t in weights.items() if not n.startswith("network.")}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"expected network\..* as in the network of config.json, \[.*\], got none"):
        load(tmp_path, "cpu")
