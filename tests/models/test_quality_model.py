"""The network: any number of channels in any order, any unit, channels without a past; training, figures, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.test_quality_faults import series
from tocsin.models.quality.baselines import GAPS, RULES, scores, together
from tocsin.models.quality.cases import Cases
from tocsin.models.quality.config import QualityConfig
from tocsin.models.quality.evaluate import figures, judge, of_rules
from tocsin.models.quality.faults import REASONS, Faults
from tocsin.models.quality.features import FACTS, RELATIONS, SIGNALS, History, features
from tocsin.models.quality.model import PLANTS, QualityModel, load
from tocsin.models.quality.network import QualityNetwork
from tocsin.models.quality.pyfunc import Windows
from tocsin.models.quality.simulation.plant import plants
from tocsin.models.quality.train import Outcome, Recipe, batches, candidate, fit, samples, train

CONFIG = QualityConfig()
SHORT = Recipe(steps=40, batches=6, batch=32)


@pytest.fixture(scope="module")
def cases() -> Cases:
    return batches([series()], CONFIG, count=1, batch=96, whole=True, seed=8)[0]


def model(seed: int = 0) -> QualityModel:
    torch.manual_seed(seed)
    return QualityModel(CONFIG, QualityNetwork(), torch.device("cpu"))


def shuffled(cases: Cases, order: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of a model, with the channels in another order."""
    width = cases.windows.shape[-1]
    columns = [*order, *(width + c for c in order), 2 * width]
    memory, limits, seen = cases.history
    return cases.times, cases.windows[..., order], memory[..., columns], limits[..., order], seen


def test_the_order_of_the_channels_does_not_matter(cases: Cases) -> None:
    order = [2, 0, 1]
    one, other = model()(cases.times, cases.windows, *cases.history), model()(*shuffled(cases, order))
    torch.testing.assert_close(one["quality"], other["quality"], atol=1e-5, rtol=0)
    assert torch.equal(one["reason"], other["reason"])
    named = torch.tensor(order)[other["channel"].clamp(min=0)]
    assert torch.equal(one["channel"], torch.where(other["channel"] < 0, -1, named))


def test_signals_do_not_depend_on_the_units_of_the_channels(cases: Cases) -> None:
    # Powers of two, so that float32 rounds alike.
    by = torch.tensor([8.0, 0.25, 64.0])
    memory, limits, seen = cases.history
    larger = History(memory * torch.cat([by, by, torch.ones(1)]), limits * by, seen)
    one, other = features(cases.times, cases.windows, cases.history), features(cases.times, cases.windows * by, larger)
    torch.testing.assert_close(one.signals, other.signals, atol=1e-3, rtol=0)


def test_a_channel_that_was_never_there_is_not_judged_and_a_blank_key_gives_numbers(cases: Cases) -> None:
    memory, limits, seen = cases.history
    blank = torch.full_like(cases.windows[..., :1], torch.nan)
    nothing = torch.full_like(memory[..., :1], torch.nan)
    width = cases.windows.shape[-1]
    more = torch.cat([memory[..., :width], nothing, memory[..., width : 2 * width], nothing, memory[..., -1:]], -1)
    wider = (torch.cat([cases.windows, blank], -1), more, torch.cat([limits, nothing[:, :2]], -1), seen)
    found = model()(cases.times, *wider)
    assert found["quality"].isfinite().all() and (found["channel"] != width).all()
    empty = model()(cases.times, *(torch.full_like(t, torch.nan) for t in wider[:3]), torch.zeros_like(seen))
    assert empty["quality"].isfinite().all()


def test_what_the_network_sees_is_finite_whatever_is_read(cases: Cases) -> None:
    windows, times = cases.windows.clone(), cases.times.clone()
    windows[:, 5, 0], windows[:, 7, 1], times[:, 9] = 1e30, -1e30, torch.nan
    given = features(times, windows, cases.history)
    assert given.signals.shape == (96, 3, CONFIG.window, len(SIGNALS))
    assert given.facts.shape == (96, 3, FACTS) and given.relations.shape == (96, 3, 3, RELATIONS)
    assert all(t.isfinite().all() for t in given)


def test_the_clock_and_rows_that_never_came_are_no_channels_fault(cases: Cases) -> None:
    found = load(PLANTS, "cpu")(cases.times, cases.windows, *cases.history)
    assert (found["channel"][found["reason"] == REASONS.index("clock")] == -1).all()
    dropped = (found["reason"] == REASONS.index("drop-out")) & (found["channel"] >= 0)
    assert cases.windows[dropped].isnan().any(1).gather(1, found["channel"][dropped, None]).all() and dropped.any()


def test_no_window_and_windows_in_parts_are_judged_alike(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model()(cases.times, cases.windows, *cases.history)
    monkeypatch.setattr("tocsin.models.quality.model.CELLS", 40_000)
    parts = model()(cases.times, cases.windows, *cases.history)
    torch.testing.assert_close(whole["quality"], parts["quality"], atol=1e-5, rtol=0)
    none = model()(cases.times[:0], cases.windows[:0], *(t[:0] for t in cases.history))
    assert {name: len(values) for name, values in none.items()} == {"quality": 0, "reason": 0, "channel": 0}


def test_another_shape_is_refused(cases: Cases) -> None:
    with pytest.raises(ValueError, match=r"windows are \[96, 32, 3\], expected \[B, 33, C\]"):
        model()(cases.times[:, 1:], cases.windows[:, 1:], *cases.history)
    memory, limits, seen = cases.history
    with pytest.raises(ValueError, match=r"the memory is \[96, 63, 7\], expected \[B, 64, 7\]"):
        model()(cases.times, cases.windows, memory[:, 1:], limits, seen)


def test_the_shipped_model_is_small_and_tells_faults_of_plants_that_it_has_not_seen() -> None:
    shipped = load(PLANTS, "cpu")
    assert shipped.parameters < 100_000
    judged = judge(shipped, batches(plants(12, seed=77), shipped.config, count=8, whole=True, seed=77))
    found = figures(judged, shipped.config.level)
    rules = of_rules(judged)
    assert found["auroc"] > 0.9 and found["reason"] > 0.7
    assert all(rule["auroc"] < found["auroc"] - 0.05 for rule in rules.values())


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return train([[series()]], [plants(10, seed=0)], CONFIG, SHORT, seed=0)


def test_it_learns() -> None:
    losses = list[float]()
    shown = [samples([series()], CONFIG, SHORT, part=(0, 1), seed=0)]
    fit(shown, CONFIG, SHORT, seed=0, progress=lambda step, loss: losses.append(loss))
    assert len(losses) == SHORT.steps and np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_seed_repeats_itself() -> None:
    few = replace(SHORT, steps=3, batches=2)
    once, again, other = (train([], [[series()]], CONFIG, few, seed=seed).figures for seed in (0, 0, 1))
    assert once == again and once != other


def test_it_sets_the_level_on_clean_windows_and_becomes_a_candidate(outcome: Outcome, tmp_path: Path) -> None:
    assert 0 <= outcome.figures["false"] < 0.05 and 0.01 <= outcome.model.config.level < 0.99
    outcome.model.save(tmp_path)
    made = candidate(outcome, tmp_path)
    assert not made.lower and made.score == outcome.figures["auroc"]
    assert all(values.isfinite().all() for values in made.outputs())
    assert made.against(tmp_path) == (made.score, made.score)
    assert load(tmp_path, "cpu").config == outcome.model.config


def test_each_rule_finds_what_it_is_for() -> None:
    """One channel at rest around 10, and what each rule says of it."""
    generator = torch.Generator().manual_seed(0)
    memory = torch.cat([10 + torch.randn(1, 64, 2, generator=generator), torch.ones(1, 64, 1)], -1).expand(5, -1, -1)
    limits = torch.stack([memory[0, :, 0].min(), memory[0, :, 0].max()]).view(1, 2, 1).expand(5, -1, -1)
    windows = (10 + 0.5 * torch.randn(5, 33, 1, generator=generator)).clamp(9, 11)
    windows[1, 20] = 100.0
    windows[2, 10:] = 10.5
    windows[3, 5:15] = torch.nan
    times = torch.arange(33.0, dtype=torch.float64).repeat(5, 1)
    times[4, 20:] += 50
    history = History(memory, limits, torch.full((5,), 64))
    found = scores(
        Cases(times, windows, history, torch.zeros(5, dtype=torch.int64), torch.zeros(5, 1, dtype=torch.bool))
    )
    assert list(found) == [*RULES, GAPS]
    assert [int(values.argmax()) for values in found.values()] == [1, 2, 1, 4]
    assert found["flat line"][2] == 23 and found["range"][0] == 0 and found[GAPS].tolist() == [0, 0, 0, 10, 50]
    clean = np.array([True, False, False, False, False])
    worst = together({name: values.double().numpy() for name, values in found.items()}, clean)
    assert worst[0] == worst.min()


def test_pyfunc_finds_the_channel_that_is_stuck_in_its_example() -> None:
    windows = Windows(load(PLANTS, "cpu"))
    found = windows.predict(windows.example())
    assert found["quality"][1] < found["quality"][0]
    assert REASONS[int(found["reason"][1])] in ("stuck", "clipped") and found["channel"][1] == 1
    with pytest.raises(ValueError, match="expected at least 65 rows, got 64"):
        windows.predict(windows.example()[:, -64:])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"window": 20}, "a multiple of 8 from 16 on, got 20"),
        ({"memory": 16}, r"at least the window \(32\), got 16"),
        ({"heads": 5}, "heads that divide width, got 5 and 32"),
        ({"level": 1.0}, "a quality between 0 and 1, got 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        QualityConfig(**wrong)  # type: ignore[arg-type]
    assert QualityConfig(faults=Faults(stuck=20)).faults.stuck == 20
