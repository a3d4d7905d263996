"""What is fed and evaluated: a rig's frames in turn, two clips together, and pushes of a camera through the pipeline."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from tocsin.models.alignment.domain import VIEWS
from tocsin.models.alignment.model import SHIPPED
from tocsin.models.domain import SIM
from tocsin.pipelines.alignment import domain


def test_a_simulated_rig_sends_its_cameras_in_turn() -> None:
    feed = domain.feed(SIM, seed=3, rate=None, model=None)
    assert (feed.views, feed.rate) == (2, 2.0) and feed.shots is not None
    shots = list(islice(feed.shots, 4))
    assert [shot.facts["view"] for shot in shots] == [*VIEWS, *VIEWS]
    assert all(shot.picture.shape == (240, 320, 3) for shot in shots)


def test_two_clips_of_a_folder_are_sent_together(tmp_path: Path) -> None:
    for name, level, count in (("heat", 200, 2), ("light", 50, 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.full((24, 32), level + number, np.uint8))
    feed = domain.feed(str(tmp_path), seed=0, rate=20, model=None)
    assert feed.shots is not None and feed.rate == 20
    found = [(shot.facts["view"], int(shot.picture[0, 0, 0])) for shot in feed.shots]
    assert found == [("first", 200), ("second", 50), ("first", 201), ("second", 51)]
    listed = ", ".join(str(tmp_path / name) for name in ("light", "heat"))
    turned = domain.feed(listed, seed=0, rate=20, model=None).shots or ()
    assert [(shot.facts["view"], int(shot.picture[0, 0, 0])) for shot in turned][:2] == [("first", 50), ("second", 200)]
    (tmp_path / "third").mkdir()
    cv2.imwrite(str(tmp_path / "third" / "0.png"), np.zeros((24, 32), np.uint8))
    with pytest.raises(ValueError, match=r"expected a folder with two clips, or two clips or URLs .*, got 3"):
        list(domain.feed(str(tmp_path), seed=0, rate=None, model=None).shots or ())


@pytest.mark.slow
def test_a_push_in_daylight_is_found_and_the_quiet_time_before_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.models.alignment.domain.RIGS", range(40_002, 40_003))
    found = domain.evaluate(SHIPPED, "shipped", SIM, pairs=1, hours=4)
    assert (found.figures["found"], found.figures["false_per_week"]) == (1.0, 0.0)
    assert found.counted == {"pairs": 15, "rigs": 1, "hours": 4} and found.parts["rigs"]["40002"]["confident"] > 0.8


def test_too_few_hours_for_a_reference_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--hours: expected 4 or more, .*, got 1; or 0"):
        domain.evaluate(SHIPPED, "shipped", SIM, hours=1)
