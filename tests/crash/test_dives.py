"""The underwater pipeline on simulated cameras under repeated kills: each frame, alert and kept file is there once."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import simplejpeg

from tests.conftest import Once
from tests.crash.conftest import MakeJob
from tests.crash.filming import BROKEN, KILLS, Film, Sent, as_replayed, disturbed, expected, plainly
from tests.crash.test_overload import _skipped
from tests.support.dives import pan, small_model
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.pipelines.runtime.engine.alerts import Alert
from tocsin.pipelines.runtime.kafka.librdkafka import KAFKA_PYTHON

pytestmark = pytest.mark.crash
CAMERAS, KEEP_EVERY, LENGTH = 4, 5, 500
EVENTS = range(20, LENGTH, 35)
"""Frames at which something new appears in a camera's picture. It stays for `LASTS` more frames."""
LASTS = 10


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, once: Once) -> Path:
    """A model whose low threshold raises many alerts."""
    folder = tmp_path_factory.mktemp("rings") / "model"
    shutil.copytree(once("surprise-model", small_model), folder)
    config = SurpriseConfig.load(folder)
    replace(config, detector=replace(config.detector, factor=3.0)).save(folder)
    return folder


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames of cameras over a bottom, past which something new swims now and then. A few are larger than others."""
    clips = []
    for camera in range(CAMERAS):
        pictures = pan(LENGTH, seed=camera, speed=3.0 + camera)
        for begin in EVENTS:
            seen = range(begin + 2 * camera, min(begin + 2 * camera + LASTS + 1, LENGTH))
            with_fish = pan(seen.stop, seed=camera, speed=3.0 + camera, fish=(seen.start, seen.stop))
            pictures[seen.start : seen.stop] = with_fish[seen.start :]
        clips.append(pictures.permute(0, 2, 3, 1).contiguous().numpy())
    for sequence in count():
        for camera in rng.sample(range(CAMERAS), CAMERAS):
            image = clips[camera][sequence % LENGTH]
            if rng.random() < 0.02:
                image = cv2.resize(image, None, fx=2, fy=2)
            yield Sent(camera, sequence, simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90))


def dive(make_job: MakeJob, weights: Path, *, seed: int, **options: Any) -> Film:
    """A job of the underwater pipeline with a small model."""
    options |= {"revisits": True, "keep_every": KEEP_EVERY, "rows": 16, "every": "500ms"}
    job, rng = make_job(factory="tocsin.pipelines.surprise:pipeline", **options), random.Random(seed)
    return Film(job, disturbed(rng, frames(rng)), ("surprise", weights))


@pytest.mark.slow  # test_frames.py kills a pipeline of frames
def test_each_frame_is_judged_once_each_alert_said_once_and_each_kept_file_whole_wherever_the_process_is_killed(
    make_job: MakeJob, weights: Path
) -> None:
    film = dive(make_job, weights, seed=11)
    film.killed(kills=KILLS, between=40, seed=11)
    _see(film, {})
    assert {one.fate for one in film.sent} == {"good", "again", "late", *BROKEN}


@pytest.mark.slow
def test_with_latest_a_frame_is_judged_once_or_lies_in_a_skipped_range_that_a_dead_letter_stands_for(
    make_job: MakeJob, weights: Path
) -> None:
    film = dive(make_job, weights, seed=12, overload="latest", max_lag="1s")
    # Small polls, which librdkafka does not have: frames already read do not count as lag.
    polls = {**film.job.kafka, "client": KAFKA_PYTHON, "fetch_max_bytes": 1 << 16}
    worker = film.job.start(kafka=polls)
    film.send(60)
    film.job.drain(worker)
    worker.kill()
    for point in ("alerts.sent", "alerts.committed", "checkpoint.delta"):
        film.send(150)
        time.sleep(1.2)  # no process runs; the frames become older than `max_lag`
        worker = film.job.drain(film.job.start(kafka=polls))
        worker.arm(point)
        film.go_on(worker)
        worker.fell(point)
    film.job.finish(film.job.start(kafka=polls))
    skipped = _skipped(film.job)
    left_out = sum(len(r) for ranges in skipped.values() for r in ranges)
    print(f"{left_out} of {len(film.sent)} frames skipped")
    assert 100 < left_out < len(film.sent) - 100
    _see(film, skipped)


def _see(film: Film, skipped: Mapping[int, Sequence[range]]) -> None:
    """Check that the table, alerts, dead letters and kept files follow from the topic, each once."""
    came = [
        (record, sent)
        for record, sent in film.came()
        if not any(record.offset in r for r in skipped.get(record.partition, ()))
    ]
    rows, dead = plainly(film, came)
    expected(film, rows, dead + Counter((p, r.start, b"") for p, ranges in skipped.items() for r in ranges))
    # Scores are errors in units of the expected error, which may be 1/20. This magnifies how batch size changes a sum.
    as_replayed(film, came, within=1e-3, relative=1e-3)
    _followed(film.table, film.alerts)


def _followed(table: pl.DataFrame, said: Sequence[Alert]) -> None:
    """Check that there is an alert where an event is not known yet, and a file every `KEEP_EVERY` frames of any event."""
    edges, kept = Counter[tuple[str, str, int]](), set[tuple[str, int]]()
    for (camera,), frames in table.sort("sequence").group_by("camera", maintain_order=True):
        run, standing = 0, False
        columns = frames.select("sequence", "novel", "again", "score", "level")
        for sequence, novel, again, score, level in columns.iter_rows():
            new = again is False
            if new != standing:
                edges[str(camera), "raised" if new else "cleared", sequence] += 1
                standing = new
            assert again is None or novel or run  # an event that ends at once is decided in the frame after it
            # The first frame after a lapse has no score, and a lapse ends an event.
            assert not novel if score is None else score > level or not novel or run
            if novel and run % KEEP_EVERY == 0:
                kept.add((str(camera), sequence))
            run = run + 1 if novel else 0
    assert Counter((a.key, a.transition, a.data["sequence"]) for a in said) == edges
    assert len(edges) > 8
    assert {*table.filter(pl.col("frame").is_not_null()).select("camera", "sequence").rows()} == kept
