"""The predictor and the model around it: it learns a moving camera's picture, and its memory is its only state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.dives import CONFIG, RECIPE, SIZE, as_before, pan
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.model import Memory, SurpriseModel, load
from tocsin.models.surprise.motion import Motion
from tocsin.models.surprise.train import FLIPPED, Footage, calibrate, fit, footage, score_clip
from tocsin.models.surprise.triage import Triage, TriageConfig
from tocsin.models.vision.encoder import Encoder
from tocsin.models.vision.encoder import load as encoder


@pytest.fixture(scope="module")
def eye() -> Encoder:
    torch.set_num_threads(1)  # two threads on busy cores are far slower
    return encoder(size=SIZE, device="cpu", layer=CONFIG.encoder.layer)


@pytest.fixture(scope="module")
def clips(eye: Encoder) -> list[Footage]:
    return [footage([pan(60, seed=n, speed=3.0 + 3 * n)], eye) for n in range(4)]


@pytest.fixture(scope="module")
def model(clips: list[Footage], eye: Encoder) -> SurpriseModel:
    return fit(clips, CONFIG, eye, RECIPE, seed=0)


def test_what_enters_a_moving_picture_surprises_and_the_motion_does_not(model: SurpriseModel, eye: Encoder) -> None:
    scores = score_clip(model, footage([pan(60, fish=(30, 40), seed=9)], eye))
    assert scores[0] == 0
    assert scores[30:41].median() > 1.5 * scores[10:30].median()


def test_telling_it_of_the_motion_makes_it_expect_more(
    model: SurpriseModel, clips: list[Footage], eye: Encoder
) -> None:
    blind = replace(CONFIG, network=replace(CONFIG.network, compensates=False))
    uncompensated = fit(clips, blind, eye, RECIPE, seed=0)
    unseen = footage([pan(60, seed=9, speed=10.0)], eye)

    def error(judge: SurpriseModel) -> float:
        memory, errors = judge.blank(1), []
        for at in range(len(unseen.tokens)):
            motion = Motion(unseen.motion.warp[at : at + 1], unseen.motion.action[at : at + 1])
            tokens = judge.whitened(unseen.tokens[at : at + 1].float())
            expected, moved = judge.predictor(memory.predictor, motion)
            errors.append(float((tokens - expected.mean).square().mean()))
            memory = memory._replace(predictor=judge.predictor.update(moved, tokens))
        return float(np.mean(errors[5:]))

    assert error(model) < 0.9 * error(uncompensated)


def test_training_is_the_same_again_by_its_seed(model: SurpriseModel, clips: list[Footage], eye: Encoder) -> None:
    again, other = (fit(clips, CONFIG, eye, RECIPE, seed=n) for n in (0, 1))
    states = [m.predictor.state_dict()["look.weight"] for m in (model, again, other)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_a_mirror_turns_actions_as_motion_itself_would(eye: Encoder) -> None:
    frames = pan(8)
    here, there = footage([frames], eye).motion, footage([frames.flip(-1)], eye).motion
    assert torch.allclose(here.action[1:] * FLIPPED, there.action[1:], atol=0.01)


def test_cameras_side_by_side_are_as_each_alone(model: SurpriseModel, eye: Encoder) -> None:
    seen = [footage([pan(15, seed=n, speed=2.0 + n)], eye) for n in range(3)]
    together, alone = model.blank(3), [model.blank(1) for _ in range(3)]
    for at in range(15):
        tokens = [model.whitened(clip.tokens[at : at + 1].float()) for clip in seen]
        motions = [Motion(c.motion.warp[at : at + 1], c.motion.action[at : at + 1]) for c in seen]
        whole = Motion(*(torch.cat(parts) for parts in zip(*((m.warp, m.action) for m in motions), strict=True)))
        places, verdict, together = model(together, torch.cat(tokens), whole)
        for n in range(3):
            own, told, alone[n] = model(alone[n], tokens[n], motions[n])
            assert torch.allclose(own[0], places[n], atol=1e-4)
            assert torch.allclose(told.score[0], verdict.score[n], atol=1e-4)


def test_the_adapter_learns_a_cameras_own_ways_and_not_an_event(model: SurpriseModel, eye: Encoder) -> None:
    clip = footage([pan(40, seed=5)], eye)

    def adapters(config: SurpriseConfig, bump: int | None = None) -> list[torch.Tensor]:
        judge, found = SurpriseModel(config, model.predictor, eye), []
        memory = judge.blank(1)
        for at in range(40):
            tokens = judge.whitened(clip.tokens[at : at + 1].float())
            if bump is not None and at >= bump:
                tokens[:, :, 2:5, 4:7] += 9.0
            motion = Motion(clip.motion.warp[at : at + 1], clip.motion.action[at : at + 1])
            _, verdict, memory = judge(memory, tokens, motion)
            found.append((memory.adapter.clone(), bool(verdict.novel)))
        return found

    learnt = adapters(CONFIG)
    assert learnt[0][0].abs().max() == 0 and learnt[-1][0].abs().max() > 0
    assert all(a.abs().max() == 0 for a, _ in adapters(replace(CONFIG, rate=0.0)))
    shocked = adapters(CONFIG, bump=30)
    assert shocked[30][1] and torch.equal(shocked[30][0], shocked[29][0])


def test_a_clip_too_short_to_train_on_is_refused_in_one_line(clips: list[Footage], eye: Encoder) -> None:
    for frames in (5, 10):
        with pytest.raises(
            ValueError, match=f"expected clips of more than 10 frames, got one of {frames}; leave it out"
        ):
            fit([*clips, footage([pan(frames)], eye)], CONFIG, eye, RECIPE)


def test_a_lapse_forgets_the_picture_and_keeps_the_level(model: SurpriseModel, eye: Encoder) -> None:
    memory, clip = model.blank(2), footage([pan(12)], eye)
    for at in range(12):
        motion = Motion(clip.motion.warp[at : at + 1].expand(2, 2, 3), clip.motion.action[at : at + 1].expand(2, -1))
        _, _, memory = model(memory, model.whitened(clip.tokens[at : at + 1].float()).expand(2, -1, -1, -1), motion)
    anew = model.reset(memory, torch.tensor([True, False]))
    assert anew.predictor.known.tolist() == [0, 1] and anew.predictor.last[0].abs().max() == 0
    assert torch.equal(anew.predictor.last[1], memory.predictor.last[1]) and torch.equal(
        anew.detector.past, memory.detector.past
    )


def test_memory_is_tensors_and_back(model: SurpriseModel) -> None:
    tensors = model.blank(2).tensors()
    assert all(len(t) == 2 for t in tensors.values())
    back = Memory.of(tensors).tensors()
    assert all(torch.equal(back[name], t) for name, t in tensors.items())


def test_a_stored_model_is_the_same_and_refuses_another_encoder(
    model: SurpriseModel, eye: Encoder, tmp_path: Path
) -> None:
    model.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.config == model.config and again.config.encoder.version == eye.version
    clip = footage([pan(6)], eye)
    assert torch.equal(score_clip(again, clip), score_clip(model, clip))
    other = replace(model.config, encoder=replace(model.config.encoder, version="0123"))
    with pytest.raises(ValueError, match=f"was trained on encoder 0123, got {eye.name} {eye.version}"):
        SurpriseModel(other, model.predictor, eye)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"top"', '"bottom"'))
    with pytest.raises(ValueError, match="bottom"):
        load(tmp_path, device="cpu")


def test_a_stored_model_of_one_head_has_it_twice(model: SurpriseModel, eye: Encoder, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = TriageConfig(hidden=4, memory=2, heads=1)
    triage = Triage(sizes, tokens=CONFIG.network.tokens, compensates=True)
    SurpriseModel(replace(model.config, triage=sizes), model.predictor, eye, triage).save(tmp_path)
    clip, single = footage([pan(6)], eye), load(tmp_path, device="cpu")
    as_before(tmp_path)
    both = load(tmp_path, device="cpu")
    assert both.triage is not None and len(both.triage.heads) == 2
    assert torch.allclose(score_clip(both, clip), score_clip(single, clip), atol=1e-6)


def test_the_level_is_settled_on_clips_with_a_truth(model: SurpriseModel, eye: Encoder) -> None:
    from tocsin.models.surprise.simulation.novelties import Novelty

    clip = footage([pan(90, fish=(50, 60), seed=9)], eye, [Novelty(50, 60, "fish")])
    config = calibrate(model, [clip], rate=10)
    assert config.detector.factor != CONFIG.detector.factor or config == model.config
    assert replace(config, detector=CONFIG.detector) == model.config


def test_without_the_cameras_motion_the_same_weights_are_surprised_by_a_pan(model: SurpriseModel, eye: Encoder) -> None:
    blind, moving = model.uncompensated(), footage([pan(60, seed=9, speed=10.0)], eye)
    still = replace(moving, motion=Motion(torch.eye(2, 3).expand(60, 2, 3), torch.zeros_like(moving.motion.action)))
    assert torch.allclose(score_clip(blind, moving), score_clip(model, still), atol=1e-4)
    assert not torch.allclose(score_clip(blind, moving), score_clip(model, moving), atol=1e-2)
    assert model.predictor.config.compensates  # the model itself has not changed
    assert all(
        torch.equal(a, b) for a, b in zip(blind.predictor.parameters(), model.predictor.parameters(), strict=True)
    )


def test_a_sensitivity_changes_the_detector_alone(model: SurpriseModel) -> None:
    tuned = model.tuned(level=3.0)
    assert tuned.config.detector == replace(model.config.detector, least=3.0)
    assert model.tuned(factor=2.0).config.detector == replace(model.config.detector, factor=2.0)
    assert model.tuned().config == model.config and tuned.predictor is model.predictor


def test_a_predictor_can_be_kept_and_triage_trained_for_it(
    model: SurpriseModel, clips: list[Footage], eye: Encoder
) -> None:
    new = footage([pan(60, fish=(20, 50), seed=5)], eye)
    covered = torch.zeros(60, *eye.grid)
    covered[20:51, 3:5, 2:6] = 1.0
    losses: list[tuple[int, float]] = []
    before = {name: t.clone() for name, t in model.predictor.state_dict().items()}
    kept = fit(
        [replace(new, covered=covered)],
        CONFIG,
        eye,
        replace(RECIPE, triage_steps=4),
        predictor=model.predictor,
        progress=lambda step, loss: losses.append((step, loss)),
    )
    assert kept.triage is not None and [step for step, _ in losses] == list(range(2 * 4))  # of two heads
    one, other = kept.triage.heads
    assert not torch.equal(one.look.weight, other.look.weight)
    assert all(torch.equal(t, before[name]) for name, t in kept.predictor.state_dict().items())
