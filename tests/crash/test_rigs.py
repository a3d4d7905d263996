"""The alignment pipeline on simulated rigs under repeated kills: each pair, alert and kept file is there once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import Once
from tests.crash.conftest import MakeJob
from tests.crash.filming import CUT_OFF, KILLS, Came, Film, Sent, as_replayed, broken, disturbed
from tests.support.rigs import SEED
from tocsin.models.alignment.config import AlignmentConfig
from tocsin.models.alignment.domain import VIEWS
from tocsin.models.alignment.model import AlignmentModel, load
from tocsin.models.alignment.simulation.rig import Rig
from tocsin.models.alignment.watch import WatchConfig
from tocsin.models.domain import Shot
from tocsin.pipelines.runtime.formats.video import encoded

pytestmark = pytest.mark.crash
RIGS, STEP_MS, EVERY, SIZE = 3, 100, 3, (96, 128)
PUSHED = 12
"""Pairs after which a rig's second camera is pushed, and pushed back."""


def quick_model(folder: Path) -> None:
    """Save the shipped weights over small frames, with a watch that trusts all it sees and rings for each push."""
    watch = WatchConfig(references=2, recent=1)
    config = AlignmentConfig(height=SIZE[0], width=SIZE[1], trust=(0, 0, 0, 3), watch=watch)
    AlignmentModel(config, load().network).save(folder)


def frames(rng: random.Random) -> Iterator[Sent]:
    """Yield endless frames of rigs, whose second camera is pushed aside and back."""
    # Two cameras of one kind, since frames are small.
    sights = [sight.first for sight in Rig(SEED, pairs=4, every=1.0, start=12)]
    views = [
        (frame, cv2.warpAffine(frame, np.array([[1, 0, aside], [0, 1, 0]], float), frame.shape[::-1]))
        for aside in (0, 24)
        for frame in sights
    ]
    files = [[encoded(Shot(np.repeat(frame[..., None], 3, axis=2))) for frame in both] for both in views]
    for sequence in count():
        pushed = sequence // PUSHED % 2
        for rig in rng.sample(range(RIGS), RIGS):
            for view in rng.sample(range(2), 2):
                yield Sent(rig, sequence, files[4 * pushed + sequence % 4][view], {"view": VIEWS[view]})


def spoiled(sent: Sent, rng: random.Random) -> Sent:
    """Cut a frame off, or give it a view that no rig has."""
    return broken(sent, CUT_OFF) if rng.random() < 0.7 else sent._replace(facts={"view": "third"}, fate="third")


@pytest.mark.slow
def test_each_pair_is_aligned_once_and_each_push_said_once_wherever_the_process_is_killed(
    make_job: MakeJob, once: Once
) -> None:
    # A slow restart must not end the wait for a partner.
    options, rng = {"pace": f"{EVERY * STEP_MS}ms", "patience": "9999d"}, random.Random(5)
    job = make_job(factory="tocsin.pipelines.alignment:pipeline", rows=16, every="500ms", **options)
    model = "alignment", once("alignment-quick", quick_model)
    film = Film(job, disturbed(rng, frames(rng), spoiled), model, at=lambda n: STEP_MS * n, key="rig")
    film.killed(kills=KILLS, between=72, seed=5)
    assert {one.fate for one in film.sent} == {"good", "again", "late", CUT_OFF, "third"}
    came, table = film.came(), film.table
    rows, dead = _plainly(came)
    found = Counter((row["rig"], row["sequence"], row["paired"]) for row in table.to_dicts())
    newest = {f"rig{rig}": max(s.sequence for _, s in came if s.camera == rig) for rig in range(RIGS)}
    assert max(found.values()) == 1
    assert {r for r in found if r[1] < newest[r[0]] - 2} == {r for r in rows if r[1] < newest[r[0]] - 2}
    assert Counter((x.partition, x.offset) for x in film.letters) == Counter(dead)
    alerts = as_replayed(
        film, came, within=1e-2, relative=1e-3, without=["topic"], kept_of=lambda s: s.facts["view"] == VIEWS[0]
    )
    assert sum(a.rule == "moved" and a.transition == "raised" for a in alerts) >= RIGS


def _plainly(came: Came) -> tuple[set[tuple[str, int, bool]], list[tuple[int, int]]]:
    """Return rows (rig, number, paired) and dead letters by a plain loop, without the runtime's code."""
    dead, good = list[tuple[int, int]](), dict[tuple[int, str], list[int]]()
    for record, sent in came:
        seen = good.setdefault((sent.camera, sent.facts["view"]), [])
        if sent.fate in (CUT_OFF, "third") or (seen and sent.sequence < seen[-1]):
            dead.append((record.partition, record.offset))
        elif not seen or sent.sequence > seen[-1]:
            seen.append(sent.sequence)
    rows = set[tuple[str, int, bool]]()
    for rig in range(RIGS):
        firsts, seconds = ([*good.get((rig, view), [])] for view in VIEWS)
        last = {True: -EVERY, False: -EVERY}
        for sequence in firsts:
            paired = sequence in seconds
            if sequence - last[paired] >= EVERY:
                last[paired] = sequence
                rows.add((f"rig{rig}", sequence, paired))
    return rows, dead
