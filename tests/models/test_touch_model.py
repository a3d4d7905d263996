"""The whole touch model: its inputs, learning, agreement of training with a stream, and storage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import Once
from tests.support.touches import CONFIG, NETWORK, RECIPE, SEEN, SIZE, Seen, clip, eyes, seen, small_model, touches
from tocsin.models.touch.config import TouchConfig
from tocsin.models.touch.decode import decode, spots
from tocsin.models.touch.evaluate import operating_figures
from tocsin.models.touch.loss import holding, targets
from tocsin.models.touch.model import Eyes, TouchModel, load
from tocsin.models.touch.moving import MOTION
from tocsin.models.touch.network import TouchNet
from tocsin.models.touch.train import (
    Footage,
    Recipe,
    _piece,
    _window,
    backwards,
    calibrate,
    detect,
    fit,
    footage,
    mirrored,
    predict_clip,
)
from tocsin.models.touch.truth import Miss, Touch
from tocsin.models.trained import CONFIG_FILE
from tocsin.models.vision import flow
from tocsin.pipelines.runtime.engine.plan import Model
from tocsin.pipelines.runtime.engine.replay import replay_clip as streamed
from tocsin.pipelines.runtime.formats.jpeg import readings
from tocsin.pipelines.runtime.formats.video import encoded
from tocsin.pipelines.touch import SCORES, pipeline

NAN = float("nan")


@pytest.fixture(scope="module")
def eye() -> Eyes:
    return eyes()


@pytest.fixture(scope="module")
def model(once: Once) -> TouchModel:
    return load(once("touch-model", small_model), "cpu")


def tensors(shots: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    """Pixels `[B, 3, H, W]` and boxes `[B, 2, 4]`."""
    pixels = np.stack([shot.picture for shot in shots])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(np.stack([shot.boxes for shot in shots]))


def paired(eye: Eyes, pixels: Tensor) -> Tensor:
    """Grey frames as `Eyes` takes them, each with its predecessor."""
    greys = flow.grey(pixels, eye.size)
    return torch.stack([torch.cat([greys[:1], greys[:-1]]), greys], 1)


@pytest.mark.slow
def test_a_small_network_learns_to_the_frame_when_hands_take_and_let_go(model: TouchModel, eye: Eyes) -> None:
    unseen = [detect(model, one) for one in seen([9, 10], eye)]
    figures = operating_figures(unseen, model.config.decode.thresholds, tolerance=1)
    assert figures["contact_f1"] > 0.85 and figures["release_f1"] > 0.85
    assert figures["contact_error"] == figures["release_error"] == 0


def test_training_is_the_same_again_by_its_seed_and_its_loss_falls(eye: Eyes) -> None:
    clips, short = seen([0], eye, frames=60), replace(RECIPE, steps=30)
    losses = list[list[float]]()
    for seed in (0, 0, 1):
        losses.append([])
        fit(clips, CONFIG, eye, short, seed=seed, progress=lambda _, loss: losses[-1].append(loss))
    assert losses[0] == losses[1] != losses[2]
    assert np.mean(losses[0][-5:]) < 0.6 * np.mean(losses[0][:5])


def test_clips_in_which_no_hand_is_known_can_be_learned_from(eye: Eyes) -> None:
    nowhere = np.full((2, 4), NAN, np.float32)
    blind = footage((shot._replace(boxes=nowhere) for shot in clip(40)), eye, touches(40, seed=0))
    losses = list[float]()
    model = fit([blind], CONFIG, eye, Recipe(steps=3, windows=2), progress=lambda _, loss: losses.append(loss))
    assert np.isfinite(losses).all()
    assert all(p.isfinite().all() for p in model.net.state_dict().values())


def test_eyes_see_each_frame_as_alone_and_nothing_of_an_absent_hand(eye: Eyes) -> None:
    pixels, boxes = tensors(list(clip(6)))
    boxes[1, 0] = boxes[4] = NAN
    pairs = paired(eye, pixels)
    scene, hands = eye(pixels, boxes, pairs)
    for at in range(6):
        alone = eye(pixels[at : at + 1], boxes[at : at + 1], pairs[at : at + 1])
        assert torch.allclose(alone[0][0], scene[at], atol=1e-4)
        assert torch.allclose(alone[1][0], hands[at], atol=1e-4)
    there = hands.flatten(2).abs().amax(2) > 0
    assert there.tolist() == [[True, True], [False, True], [True, True], [True, True], [False, False], [True, True]]
    assert [len(part) for part in eye(pixels[:0], boxes[:0], pairs[:0])] == [0, 0]


def test_a_hands_crop_matters_to_its_hand_alone(eye: Eyes) -> None:
    pixels, boxes = tensors(list(clip(1)))
    changed = pixels.clone()
    x, y = (boxes[0, 1, :2] * torch.tensor([SEEN.width, SEEN.height])).round().int().tolist()
    changed[:, :, y : y + 20, x : x + 20] = 0
    before, after = (eye(p, boxes, paired(eye, p)) for p in (pixels, changed))
    assert torch.equal(before[1][0, 0], after[1][0, 0]) and not torch.allclose(
        before[1][0, 1], after[1][0, 1], atol=0.1
    )
    assert not torch.allclose(before[0], after[0], atol=0.1)


def test_without_looks_motion_alone_is_told_and_no_encoder_is_loaded(
    eye: Eyes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.models.touch.model.encoder", lambda *_, **__: pytest.fail("an encoder was loaded"))
    plain = Eyes(replace(SEEN, looks=False, scene_height=64, scene_width=96, crop=48))
    assert plain.scene == (MOTION, (2, 3)) and plain.hands == (MOTION, (2, 2)) and not plain.config.version
    pixels, boxes = tensors(list(clip(6)))
    boxes[1, 0] = NAN
    scene, hands = plain(pixels, boxes, paired(eye, pixels))
    assert scene.shape == (6, 6, MOTION) and hands.shape == (6, 2, 4, MOTION)
    assert scene[1].any() and hands[1, 1].any() and not hands[1, 0].any()
    assert not scene[0].any() and not hands[0].any()  # it has no predecessor


def test_the_scene_is_reduced_by_means_of_pixels(eye: Eyes) -> None:
    grid = torch.zeros(1, 3, SEEN.height, SEEN.width, dtype=torch.uint8)
    grid[..., ::2, ::2] = grid[..., 1::2, 1::2] = 200
    nowhere = torch.full((1, 2, 4), NAN)
    seen, plain = (eye(p, nowhere, paired(eye, p))[0] for p in (grid, torch.full_like(grid, 100)))
    assert torch.allclose(seen, plain, atol=1e-4)


def test_look_and_judge_are_the_networks_at_the_frame_that_is_asked_about(model: TouchModel, eye: Eyes) -> None:
    window = torch.randn(3, NETWORK.window, NETWORK.dim, generator=torch.Generator().manual_seed(0))
    there = torch.ones(3, NETWORK.window, dtype=torch.bool)
    there[1, :2] = there[2, -1] = False
    whole, told = model.net.predict(window, there), model.predict(window, there)
    assert told.shape == (3, 2, 2, 2)
    assert torch.equal(told[:, 0], whole.logits[:, NETWORK.past].sigmoid())
    assert torch.equal(told[:, 1], whole.displacement[:, NETWORK.past])
    pixels, boxes = tensors(list(clip(2)))
    boxes[1, 0] = NAN
    there = torch.tensor([[True, True], [False, True]])
    pairs = paired(eye, pixels)
    assert torch.equal(model.encode(pixels, boxes, pairs), model.net.look(*eye(pixels, boxes, pairs), there, boxes))
    assert model.encode(pixels[:0], boxes[:0], pairs[:0]).shape == (0, NETWORK.dim)


def test_an_event_is_decided_by_its_own_kinds_threshold(model: TouchModel, eye: Eyes) -> None:
    config = replace(model.config, decode=replace(model.config.decode, contact=0.8, release=0.3))
    strict = TouchModel(config, model.net, eye)
    wait = config.decode.wait
    window = torch.zeros(1, 2 * wait + 1, 2, 2, 2)
    window[0, wait, 0] = torch.tensor([[0.7, 0.7], [0.9, 0.2]])  # by hand: contact, release
    scores, events = strict.decide(window, torch.ones(1, 2 * wait + 1, dtype=torch.bool))
    assert torch.equal(scores, window[:, wait, 0])
    assert events.tolist() == [[[False, True], [True, False]]]
    assert strict.delay == NETWORK.ahead + wait


def test_training_hears_frame_by_frame_what_a_stream_does(model: TouchModel, eye: Eyes, tmp_path: Path) -> None:
    model.save(tmp_path)
    declared = pipeline({}, Model(tmp_path, "1", "cpu"))
    shots = list(clip(90, seed=9))
    shots[20].boxes[0] = shots[50].boxes[:] = NAN
    files = [encoded(shot.frame) for shot in shots]
    facts = [{"camera": "c", "sequence": n, "time": n} for n in range(len(shots))]
    size = (*model.size, 3)
    pixels = [
        np.frombuffer(p, np.uint8).reshape(size) for p in readings(declared.schema, files, facts)["pixels"].to_pylist()
    ]
    as_sent = [shot._replace(picture=picture) for shot, picture in zip(shots, pixels, strict=True)]
    sent, boxes = tensors(as_sent)
    exact = Footage(*eye(sent, boxes, paired(eye, sent)), tensors(shots)[1], [], [])
    table = streamed(declared, (shot.frame for shot in shots), rate=30, after="10s").table.sort("sequence")

    streams = torch.from_numpy(table.select(SCORES).to_numpy().copy()).unflatten(1, (2, 2))
    scores, displacement = predict_clip(model, exact).unbind(1)
    c = model.config.decode
    decoded = decode(scores, displacement, radius=c.radius)
    assert torch.allclose(streams, decoded, atol=1e-4)
    found = {(s.frame, s.hand, s.kind) for s in detect(model, exact).found if s.score >= c.thresholds[s.kind]}
    rang = {
        (row["sequence"], hand, ("contact", "release").index(row[f"{name}_event"]))
        for hand, name in enumerate(("left", "right"))
        for row in table.to_dicts()
        if row[f"{name}_event"]
    }
    assert rang == found and len(rang) > 8
    halved = predict_clip(model, footage(as_sent, eye))
    assert torch.allclose(halved[:, 0], scores, atol=0.02)
    assert detect(model, exact).found == spots(decoded, apart=c.apart)


WHOLE = Recipe(blind=0.0, cut=0.0)


def numbered(frames: int, *events: Touch) -> Footage:
    """A clip whose tokens hold their frame's number."""
    numbers = torch.arange(frames).half()
    boxes = torch.full((frames, 2, 4), 0.25)
    return Footage(numbers.view(-1, 1, 1), numbers.view(-1, 1, 1, 1).expand(-1, 2, 1, 1), boxes, events, [])


def test_a_piece_says_which_of_its_frames_there_are() -> None:
    one = numbered(10, Touch(0, 2, 8))
    truth, draw = targets(one.touches, 10, radius=2), np.random.default_rng(0)
    holds = holding(one.touches, 10)
    scene, hands, boxes, labels, displacement, held, there = _piece(one, [*truth, holds], range(-3, 6), WHOLE, draw)
    assert there.tolist() == [False] * 3 + [True] * 6
    assert scene[there].flatten().tolist() == [0, 1, 2, 3, 4, 5] and scene.dtype == torch.float32
    assert hands[there][:, 1, 0, 0].tolist() == [0, 1, 2, 3, 4, 5] and (boxes == 0.25).all()
    assert torch.equal(held[there], holds[:6]) and holds[2:8, 0].all() and holds.sum() == 6
    assert torch.equal(labels[there], truth.labels[:6]) and torch.equal(displacement[there], truth.displacement[:6])
    *_, there = _piece(one, [*truth, holds], range(7, 12), WHOLE, draw)
    assert there.tolist() == [True] * 3 + [False] * 2
    scene, _, boxes, labels, _, _, _ = _piece(one, [*truth, holds], range(7, 12), replace(WHOLE, blind=1.0), draw)
    assert boxes.isnan().all() and labels[1, 0, 1] == 1 and scene[1] == 8
    assert (one.boxes == 0.25).all()


def test_of_a_piece_the_beginning_or_the_end_may_be_missing() -> None:
    one, draw = numbered(10), np.random.default_rng(0)
    truth, seen = [*targets((), 10, radius=2), holding((), 10)], set[str]()
    for _ in range(200):
        *_, there = _piece(one, truth, range(-2, 8), replace(WHOLE, cut=1.0), draw)
        seen.add("".join(str(int(known)) for known in there))
    assert seen == {"0" * (2 + n) + "1" * (8 - n) for n in range(5)} | {
        "00" + "1" * (8 - n) + "0" * n for n in range(5)
    }
    *_, there = _piece(one, truth, range(9, 12), replace(WHOLE, cut=1.0), draw)
    assert there.tolist() == [True, False, False]


def test_windows_have_an_event_in_them_where_they_should_and_reach_over_both_ends() -> None:
    clips = [numbered(40), numbered(30, Touch(0, 1, 28)), numbered(40, Touch(1, 3, None))]
    draw = np.random.default_rng(0)
    begins: dict[int, set[int]] = {1: set(), 2: set()}
    for _ in range(1000):
        number, frames = _window(clips, 12, draw, event=True)
        ends = (1, 28) if number == 1 else (3,)
        assert len(frames) == 12 and any(end in frames for end in ends)
        begins[number].add(frames.start)
    assert begins == {1: {*range(-10, 2), *range(17, 29)}, 2: {*range(-8, 4)}}
    drawn = [_window(clips, 12, draw, event=False) for _ in range(3000)]
    for number, one in enumerate(clips):  # every window with at least eight frames occurs
        assert {frames.start for n, frames in drawn if n == number} == {*range(-4, len(one) - 8)}
    assert {_window(clips[:1], 12, draw, event=True)[0] for _ in range(9)} == {0}  # no clip has an event


def test_backwards_a_hand_takes_where_it_let_go_and_what_moved_right_moves_left() -> None:
    frames = torch.arange(120.0)
    # The first two channels are looks, the rest motion.
    moved = torch.stack([frames] * 2 + [frames + n for n in range(1, 1 + MOTION)], -1)
    clip = Footage(
        moved[:, None],
        moved[:, None, None].expand(-1, 2, 4, -1),
        frames[:, None, None].expand(-1, 2, 4),
        [Touch(0, 10, 30), Touch(1, 40, 60), Touch(0, 110, None)],
        [Miss(1, 70, 80), Miss(1, 95, 105)],
    )
    back = backwards(clip)
    assert back and len(back) == 100 and len(back.boxes) == len(back.hands) == 100
    assert back.touches == [Touch(1, 40, 60), Touch(0, 70, 90)] and back.misses == [Miss(1, 19, 29)]
    assert back.scene[30, 0].tolist() == [69, 69, *range(-71, -71 - MOTION, -1)]
    assert back.scene[0, 0].tolist() == [99, 99, *[0] * MOTION]
    assert torch.equal(back.hands[:, 1, 2], back.scene[:, 0]) and back.boxes[30, 0, 0] == 69
    again = backwards(back)
    assert again and again.touches == clip.touches[:2]
    assert backwards(replace(clip, touches=[Touch(0, 85, None)])) is None


def test_in_a_mirror_the_left_hand_is_the_right_one_and_moves_the_other_way() -> None:
    plain, (height, width) = Eyes(replace(SEEN, looks=False, scene_height=64, scene_width=96, crop=48)), SIZE
    ground = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    shots = []
    for at in range(3):  # the left hand moves right and down, the right hand up
        picture, boxes = cv2.GaussianBlur(ground, (0, 0), 1.5), np.empty((2, 4), np.float32)
        for hand, (x, y) in enumerate(((12 + 2 * at, 22 + at), (60, 24 - 2 * at))):
            picture[y : y + 20, x : x + 20] = cv2.GaussianBlur(ground, (0, 0), 1)[hand * 20 :, 30:][:20, :20]
            boxes[hand] = x / width, y / height, (x + 20) / width, (y + 20) / height
        shots.append((picture, boxes))
    there = footage(iter(shots), plain, [Touch(0, 1, 2)], [Miss(1, 0, 2)])
    flipped = [(picture[:, ::-1].copy(), np.stack([b[[2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0] for b in boxes[::-1]]))
               for picture, boxes in shots]  # fmt: skip
    seen, told = footage(((p, b.astype(np.float32)) for p, b in flipped), plain), mirrored(there, plain)
    assert told.touches == [Touch(1, 1, 2)] and told.misses == [Miss(0, 0, 2)]
    assert torch.allclose(told.boxes, seen.boxes, atol=1e-6)
    for part, mirror in ((seen.scene, told.scene), (seen.hands, told.hands)):
        assert torch.corrcoef(torch.stack([part.flatten(), mirror.flatten()]).float())[0, 1] > 0.95
    again = mirrored(told, plain)
    assert torch.equal(again.scene, there.scene) and torch.equal(again.hands, there.hands)


def test_thresholds_are_settled_on_clips_that_were_not_trained_on(model: TouchModel, eye: Eyes) -> None:
    unseen = seen([9], eye)
    config = calibrate(model, unseen)
    found = [detect(model, one) for one in unseen]
    for kind in ("contact", "release"):
        best = operating_figures(found, config.decode.thresholds)[f"{kind}_f1"]
        assert all(best >= operating_figures(found, (at, at))[f"{kind}_f1"] for at in np.linspace(0.02, 0.98, 49))
    assert replace(config, decode=model.config.decode) == model.config


def test_a_stored_model_is_the_same(model: TouchModel, tmp_path: Path) -> None:
    model.save(tmp_path / "new")
    again = load(tmp_path / "new", device="cpu")
    assert again.config == model.config and again.config.eye.version and again.parameters == model.parameters > 1000
    pixels, boxes = tensors(list(clip(3)))
    pairs = paired(eyes(), pixels)
    vectors = model.encode(pixels, boxes, pairs)
    assert torch.equal(again.encode(pixels, boxes, pairs), vectors)
    window, there = vectors[[0, 1, 2, 0, 1, 2, 0, 1]][None], torch.ones(1, 8, dtype=torch.bool)
    assert torch.equal(again.predict(window, there), model.predict(window, there))


def test_another_encoder_and_unknown_settings_are_refused(model: TouchModel, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"was trained on encoder 0123, got efficientnet-lite0.*; use that one, or train"
    ):
        Eyes(replace(SEEN, version="0123"), "cpu")
    model.save(tmp_path)
    stored = json.loads((tmp_path / CONFIG_FILE).read_text())
    wrongs: list[dict[str, Any]] = [{"network": {"depth": 3}}, {"ear": {}}]
    for wrong in wrongs:
        (tmp_path / CONFIG_FILE).write_text(json.dumps(stored | wrong))
        with pytest.raises(
            ValueError, match=rf"{CONFIG_FILE}: .*({'|'.join(['depth', 'ear'])}).*; train the model again"
        ):
            load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"past": 6}, r"past \+ 1 \+ ahead \(9\) must be a multiple of 2 to be halved 1 times"),
        ({"kernel": 4}, r"kernel \(4\) must be odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(NETWORK, **sizes)


def test_a_config_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    assert TouchConfig.load(tmp_path) == CONFIG != TouchConfig()


def test_a_model_is_frozen(model: TouchModel, eye: Eyes) -> None:
    net = TouchNet(NETWORK, scene=eye.scene, hands=eye.hands)
    frozen = TouchModel(CONFIG, net, eye).net
    assert not frozen.training and not any(p.requires_grad for p in frozen.parameters())
