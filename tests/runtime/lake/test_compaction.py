"""The deletion of old data from a lake."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.test_query import commit
from tests.support.denied import deny
from tocsin.pipelines.runtime.lake.compaction import CONTEXT_AGE, drop_contexts, drop_frames, tidy
from tocsin.pipelines.runtime.lake.storage import Lake, write


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


def test_old_states_of_a_context_are_deleted_but_for_the_current_one(tmp_path: Path) -> None:
    lake, age = Lake(str(tmp_path)), CONTEXT_AGE.total_seconds()
    for name, old in (("current", 2 * age), ("old", 2 * age), ("new", 0)):
        write(lake.files, f"_context/rul/{name}.arrow", b"x")
        then = time.time() - old
        os.utime(tmp_path / "_context" / "rul" / f"{name}.arrow", (then, then))
    assert drop_contexts(lake, "_context/rul/current.arrow") == 1
    assert sorted(p.stem for p in (tmp_path / "_context" / "rul").iterdir()) == ["current", "new"]
    assert drop_contexts(lake, "_context/other/current.arrow") == 0


def test_a_stray_folder_and_a_day_that_can_not_be_deleted_stay_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake(str(tmp_path))
    for day in ("2026-01-01", "2026-01-02", ".snapshot", "0-mine"):
        write(lake.files, f"frames/surprise/{day}/1.jpg", b"x")
    commit(tmp_path, "a", [1.0])
    commit(tmp_path, "b", [1.0])
    deny(monkeypatch, lambda path: PermissionError(13, "Permission denied") if path.endswith("2026-01-01") else None)
    (tmp_path / "a" / "_delta_log" / "00000000000000000001.json").write_text("{")  # a damaged table
    assert [done.table for done in tidy(lake, ["a", "b"], "24h", ("surprise", "1d"))] == [str(tmp_path / "b")]
    assert sorted(p.name for p in (tmp_path / "frames" / "surprise").iterdir()) == [".snapshot", "0-mine", "2026-01-01"]
    assert "these old frames could not be deleted, so they stay" in caplog.text
    assert f"{tmp_path / 'a'}: expected to compact small files and delete old ones" in caplog.text
