"""What is dropped from a lake because of its age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipelines.runtime.compaction import drop_frames
from pipelines.runtime.lake import Lake, write


def test_days_of_frames_that_are_over_for_long_enough_are_deleted_and_no_others(tmp_path: Path) -> None:
    lake, today = Lake(str(tmp_path)), datetime.now(UTC).date()
    days = [(today - timedelta(days=n)).isoformat() for n in (0, 1, 2, 3, 40)]
    for day in days:
        for pipeline in ("surprise", "other"):
            write(lake.files, f"frames/{pipeline}/{day}/1.jpg", b"x")
    assert drop_frames(lake, "surprise", "2d") == 2
    assert sorted(p.name for p in (tmp_path / "frames" / "surprise").iterdir()) == sorted(days[:3])
    assert len(list((tmp_path / "frames" / "other").iterdir())) == 5
    assert drop_frames(lake, "never-kept-any", "2d") == 0
