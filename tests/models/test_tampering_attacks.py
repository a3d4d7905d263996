"""Attacks do what their names say, and nothing before they begin; simulated cameras are reproducible, and never repeat a frame."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from tocsin.models.tampering.simulation.attacks import ATTACKS, KINDS, UNSEEN, Attacked, attacked
from tocsin.models.tampering.simulation.camera import Camera
from tocsin.models.tampering.simulation.stream import Stream

SIZE, BEGIN, END = (90, 160), 40, 64
FRAMES = [*Camera(seed=1, frames=70, size=SIZE, things=3)]
OTHER = [*Camera(seed=2, frames=30, size=SIZE, things=2)]


def done(kind: str, seed: int = 0) -> Attacked:
    return attacked(kind, np.random.default_rng(seed), FRAMES, BEGIN, END, OTHER)


@pytest.mark.parametrize("kind", ATTACKS)
def test_frames_before_and_after_an_attack_are_as_the_camera_took_them(kind: str) -> None:
    found = done(kind)
    assert len(found.frames) == len(found.covers) == len(FRAMES)
    for number, (picture, cover) in enumerate(zip(found.frames, found.covers, strict=True)):
        assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8
        within = BEGIN <= number < END
        assert (cover is not None) == within
        assert within or picture is FRAMES[number]
    changed = [not np.array_equal(found.frames[number], FRAMES[number]) for number in range(BEGIN, END)]
    assert sum(changed) >= 0.6 * (END - BEGIN)
    assert all(cover is None or (cover.min() >= 0 and 0 < cover.max() <= 1) for cover in found.covers)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one.astype(int) - other).mean() < 4)  # replays may be coded anew


def test_a_frozen_a_stuttering_and_a_mirrored_camera() -> None:
    assert all(np.array_equal(picture, FRAMES[BEGIN - 1]) for picture in done("frozen").frames[BEGIN:END])
    held = done("stuttering").frames[BEGIN:END]
    changes = [at for at in range(1, len(held)) if not np.array_equal(held[at], held[at - 1])]
    assert 3 <= np.diff([0, *changes]).min() <= 7 and {*np.diff([0, *changes])} == {changes[0]}
    for number in range(BEGIN, END):
        assert np.array_equal(done("mirrored").frames[number][:, ::-1], FRAMES[number])


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_repeats_the_past_and_a_rewind_plays_it_backwards(seed: int) -> None:
    loop = done("loop", seed).frames[BEGIN:END]
    starts = [n for n in range(BEGIN) if same(loop[0], FRAMES[n])]
    assert any(same(loop[1], FRAMES[n + 1]) for n in starts if n + 1 < BEGIN), (
        "expected frames of the past in their order"
    )
    back = done("rewound", seed).frames[BEGIN:END]
    assert all(same(picture, FRAMES[BEGIN - 2 - number]) for number, picture in enumerate(back))


@pytest.mark.parametrize("kind", ["splice", "painted"])
def test_a_region_is_replaced_and_the_rest_stays(kind: str) -> None:
    for seed in range(4):
        found = done(kind, seed)
        cover = found.covers[BEGIN]
        assert cover is not None and 0.05 < cover.mean() < 0.35
        for number in (BEGIN, END - 1):
            apart = np.abs(found.frames[number].astype(int) - FRAMES[number]).max(2)
            assert apart[cover == 0].max() == 0 and apart[cover > 0.9].mean() > 1


def test_light_blur_and_cover_change_the_picture_as_they_should() -> None:
    before = FRAMES[END - 1].astype(float)
    ends = {kind: done(kind).frames[END - 1].astype(float) for kind in ("covered", "defocused", "blinded", "reencoded")}
    cover = done("covered").covers[END - 1]
    assert cover is not None and cover.mean() > 0.6 and ends["covered"][cover > 0.9].std() < before.std()
    assert (ends["blinded"] >= 250).mean() > (before >= 250).mean() + 0.15
    for kind in ("defocused", "reencoded"):
        assert np.abs(np.diff(ends[kind].mean(2), axis=1)).mean() < np.abs(np.diff(before.mean(2), axis=1)).mean()


def test_a_wrong_attack_is_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"attack: expected one of frozen, loop, .*, got melted"):
        attacked("melted", rng, FRAMES, BEGIN, END, OTHER)
    with pytest.raises(ValueError, match="attack: expected frames 12 < begin < end <= 70, got 5 and 64"):
        attacked("loop", rng, FRAMES, 5, END, OTHER)


@pytest.mark.parametrize("motion", ["still", "sway", "carried"])
def test_a_camera_is_reproducible_and_its_grain_never_repeats(motion: str) -> None:
    one = Camera(seed=3, frames=12, size=SIZE, motion=motion, things=0)  # type: ignore[arg-type]
    first, again = [*one], [*one]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(first[a], first[b]) for a in range(12) for b in range(a))
    moved = float(np.abs(first[0].astype(int) - first[-1]).mean())
    assert moved < 4 if motion == "still" else moved > 1.5


def test_a_coded_camera_leaves_blocks_as_they_were_and_a_lamp_changes_the_light() -> None:
    coded = [*Camera(seed=4, frames=5, size=SIZE, things=1, skips=6, drift=0)]
    share = np.mean([(a == b).mean() for a, b in zip(coded[1:], coded, strict=False)])
    assert share > 0.8
    lit = [*Camera(seed=4, frames=6, size=SIZE, things=0, lamp=(3, 0.5), drift=0)]
    assert lit[3].mean() < 0.6 * lit[2].mean()


def test_a_stream_is_attacked_in_turn_and_quiet_in_between() -> None:
    stream = Stream(5, size=SIZE, kinds=("frozen", "mirrored"), quiet=20, attack=6)
    kinds = [kind for _, kind in islice(stream.told(), 60)]
    assert kinds == [""] * 20 + ["frozen"] * 6 + [""] * 20 + ["mirrored"] * 6 + [""] * 8
    frames = [*islice(stream, 26)]
    assert all(np.array_equal(frames[19], picture) for picture in frames[20:])
    assert not np.array_equal(frames[0], frames[1])
    assert {*KINDS} & {*UNSEEN} == set() and len({*KINDS, *UNSEEN}) == len(ATTACKS) == 14
