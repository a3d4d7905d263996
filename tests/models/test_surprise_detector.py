"""Events: a score that stands out from a camera's last minutes begins one event, which does not last forever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.models.surprise.detector import DetectorConfig, blank, step
from tocsin.models.surprise.evaluate import Counted, at_recall, best, counted, curve, detect, levels
from tocsin.models.surprise.simulation.novelties import Novelty

CONFIG = DetectorConfig(smoothing=1.0, window=50, warmup=10, factor=5.0, release=0.5, longest=20, cooldown=8)


def usual(count: int, seed: int = 0) -> torch.Tensor:
    """Scores between 1 and 2."""
    return 1 + torch.rand(count, generator=torch.Generator().manual_seed(seed))


def with_events(count: int, events: Sequence[tuple[int, int]], height: float = 20.0) -> torch.Tensor:
    scores = usual(count)
    for first, last in events:
        scores[first : last + 1] = height
    return scores


def test_an_event_begins_once_and_lasts_until_it_is_over() -> None:
    begins, novel = detect(with_events(120, [(60, 69), (90, 95)]), CONFIG)
    assert begins == [60, 90]
    assert [at for at, is_new in enumerate(novel) if is_new] == [*range(60, 70), *range(90, 96)]


def test_nothing_is_an_event_before_a_camera_is_known_or_too_soon_after_the_last() -> None:
    assert detect(with_events(30, [(5, 8)]), CONFIG)[0] == []
    assert detect(with_events(100, [(60, 61), (64, 65), (70, 71)]), CONFIG)[0] == [60, 70]


def test_an_event_does_not_raise_the_level_and_the_usual_does() -> None:
    def level_after(scores: torch.Tensor) -> float:
        seen = blank(1, CONFIG)
        for at in range(1, len(scores)):
            verdict, seen = step(seen, scores[at : at + 1], CONFIG)
        return float(verdict.level)

    calm = usual(110)
    event = calm.clone()
    event[90:105] = 50.0
    assert level_after(event) == pytest.approx(level_after(calm), rel=0.2)
    assert level_after(torch.cat([calm, 3 * usual(60)])) > 2 * level_after(calm)


def test_what_stays_becomes_usual_and_is_no_event_again_until_it_has_been_away() -> None:
    scores = usual(260)
    scores[60:200] += 18
    begins, novel = detect(scores, CONFIG)
    assert begins == [60] and sum(novel) == CONFIG.longest
    scores[230:235] += 40
    assert detect(scores, CONFIG)[0] == [60, 230]


def test_a_rise_within_an_event_ends_it_and_begins_another() -> None:
    scores = usual(200)
    scores[60:110] = 12.0  # something comes and stays
    scores[85:95] = 30.0  # and something else
    config = replace(CONFIG, longest=60, recent=10, rise=0.75)
    begins, novel = detect(scores, config)
    assert begins == [60, 86]
    assert novel[60:85] == [True] * 25 and novel[85:95] == [False] + [True] * 9
    assert detect(scores, replace(config, rise=0.0))[0] == [60]


def test_a_score_that_stays_high_ends_by_the_longest_event_and_rings_again_only_at_a_rise() -> None:
    scores = usual(300)
    scores[60:] += 12
    config = replace(CONFIG, recent=10)
    begins, novel = detect(scores, config)
    assert begins == [60] and sum(novel) == config.longest
    scores[120:126] += 30
    begins, novel = detect(scores, config)
    assert begins == [60, 120] and novel[120:126] == [True] * 6
    # A slow rise is no other event: the score's recent course rises with it.
    slow = usual(300)
    slow[60:] += 12 + torch.linspace(0, 20, 240)
    assert detect(slow, replace(config, rise=1.5))[0] == [60]


def test_an_event_is_over_when_the_score_has_fallen_far_below_its_recent_course() -> None:
    scores = usual(160)
    scores[60:75] = 40.0
    scores[75:78] = 12.0  # still above the level
    config = replace(CONFIG, longest=60, recent=10, fall=0.5)
    assert [at for at, new in enumerate(detect(scores, config)[1]) if new] == [*range(60, 75)]
    assert sum(detect(scores, replace(config, fall=0.0))[1]) == 18


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100, width=32), min_size=2, max_size=80), st.floats(1, 20))
def test_cameras_side_by_side_are_as_each_alone(scores: list[float], factor: float) -> None:
    config = replace(CONFIG, factor=factor, smoothing=0.4)
    one = torch.tensor(scores)
    two = torch.stack([one, one.flip(0), usual(len(one))])
    seen, together = blank(3, config), []
    for at in range(1, len(one)):
        verdict, seen = step(seen, two[:, at], config)
        together.append(torch.stack([verdict.novel, verdict.begins]))
    for camera in range(3):
        begins, novel = detect(two[camera], config)
        assert [bool(v[0, camera]) for v in together] == novel[1:]
        assert [at + 1 for at, v in enumerate(together) if v[1, camera]] == begins


def test_alerts_are_counted_against_the_truth_each_novelty_once() -> None:
    truth = [Novelty(10, 20, "fish"), Novelty(40, 60, "crate"), Novelty(80, 90, "eel")]
    count = counted([5, 12, 18, 29, 65, 105], [False] * 90 + [True] * 10, truth, rate=10)
    # 12 and 18 find the fish. 29 is within a second of the fish, 65 of the crate. 5 and 105 are false.
    assert (count.found, count.novelties, count.false, count.kept, count.seconds) == (2, 3, 2, 10, 10.0)
    figures = (count + Counted(1, 1, 1, 0, 0, 100, 10.0)).figures()
    assert figures["precision"] == pytest.approx(3 / 5) and figures["recall"] == pytest.approx(3 / 4)
    assert figures["saved"] == pytest.approx(0.95) and figures["false_per_hour"] == pytest.approx(360)


def test_a_novelty_within_a_running_event_is_covered_but_not_found() -> None:
    truth = [Novelty(10, 20, "fish"), Novelty(30, 40, "crate"), Novelty(80, 90, "eel")]
    count = counted([8], [8 <= at <= 35 for at in range(100)], truth, rate=10)
    assert (count.found, count.covered, count.false) == (0, 2, 1)
    assert count.figures()["recall"] == 0 and count.figures()["recall_covered"] == pytest.approx(2 / 3)


def test_a_figure_without_a_meaning_is_none() -> None:
    quiet = counted([], [False] * 100, [], rate=10).figures()
    assert {name for name, value in quiet.items() if value is None} == {
        "precision",
        "recall",
        "recall_covered",
        "f1",
        "f2",
    }
    assert quiet["false_per_hour"] == 0 and quiet["saved"] == 1
    missed = counted([], [False] * 100, [Novelty(10, 20, "fish")], rate=10).figures()
    assert missed["precision"] is None and missed["recall"] == 0 and missed["f1"] == 0
    assert set(Counted().figures().values()) == {None}


def test_of_novelties_at_the_same_time_each_alert_finds_one() -> None:
    truth = [Novelty(10, 30, "fish"), Novelty(12, 30, "eel")]
    assert counted([15], [], truth, rate=10).found == 1
    assert counted([15, 25], [], truth, rate=10).found == 2


def test_a_curve_trades_recall_for_precision_and_its_best_point_is_the_best_f1() -> None:
    scores = with_events(400, [(100, 110), (200, 210)], height=6.0)
    scores[300:303] = 3.2  # a false alert, with a lower score
    truth = [[Novelty(100, 110, "fish"), Novelty(200, 210, "fish")]]
    found = curve([scores], truth, levels(CONFIG, triaged=False), rate=10)
    recalls = [count.figures()["recall"] for count in found.values()]
    assert recalls[0] == 1.0 and recalls[-1] == 0.0 and recalls == sorted(recalls, reverse=True)
    chosen = found[best(found)]
    assert (chosen.found, chosen.false) == (2, 0)
    assert (found[best(found, most=0.0)].found, found[best(found, most=0.0)].false) == (2, 0)
    noisy = {config: count + Counted(false=2, seconds=1.0) for config, count in found.items()}
    assert noisy[best(noisy, most=1.0)].false == 2  # none is allowed: the fewest
    assert at_recall(found, 1.0) is not None and at_recall(found, 1.0).false == 0
    assert at_recall({CONFIG: Counted(1, 1, 2, 0)}, 0.8) is None


def test_a_detector_that_is_named_twice_counts_once() -> None:
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0))
    once, twice = (curve([scores], [[]], [CONFIG] * times, rate=10) for times in (1, 2))
    assert once == twice and once[CONFIG].frames == 60


def test_a_score_with_a_meaning_has_a_least_level_above_which_a_quiet_camera_rings() -> None:
    scores = with_events(400, [(100, 110), (200, 210)], height=6.0)
    config = replace(CONFIG, least=float(scores.max()) + 1)
    assert detect(scores, CONFIG)[0] and not detect(scores, config)[0]
    heights = [detect(scores, each)[0] for each in (CONFIG, config, replace(CONFIG, least=2.0))]
    together = curve([scores], [[]], [CONFIG, config, replace(CONFIG, least=2.0)], rate=10)
    assert [count.false for count in together.values()] == [len(begins) for begins in heights]
