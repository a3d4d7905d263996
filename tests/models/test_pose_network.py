"""The network of pose: frame by frame as in one pass, within bounds, and with and without its anchor and its memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tocsin.models.pose.motion import Pairs
from tocsin.models.pose.network import NetworkConfig, PoseNetwork, PoseState, Steps

SMALL = NetworkConfig(hidden=8, width=16, heads=2, window=3, memory=4)


def pairs(clips: int, frames: int, *, seed: int = 0) -> Pairs:
    """Random measurements."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(clips, frames, *shape, generator=generator)

    now = random(300, 2) / 4
    guess = torch.cat([random(3) / 100, F.normalize(random(3), dim=-1), random(1).sigmoid()], -1)
    return Pairs(now, now + random(300, 2) / 50, random(300, 2), guess, torch.full((clips, frames), 130.0))


def network(**options: Any) -> PoseNetwork:
    torch.manual_seed(0)
    return PoseNetwork(replace(SMALL, **options)).eval()


def stepped(model: PoseNetwork, seen: Pairs) -> tuple[Steps, PoseState]:
    """Run a clip frame by frame."""
    state, steps = model.blank(seen.now.shape[0]), list[Steps]()
    for at in range(seen.now.shape[1]):
        step, state = model.step(state, Pairs(*(t[:, at] for t in vars(seen).values())))
        steps.append(step)
    return Steps(*(torch.stack(part, 1) for part in zip(*steps, strict=True))), state


@pytest.mark.parametrize("options", [{}, {"anchored": False}, {"memory": 0}, {"memory": 0, "anchored": False}])
def test_frame_by_frame_gives_what_a_whole_clip_gives(options: dict[str, Any]) -> None:
    model, seen = network(**options), pairs(2, 14)
    with torch.no_grad():
        whole = model(seen)
    for name, one, other in zip(Steps._fields, stepped(model, seen)[0], whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, msg=name)


def test_cameras_at_different_frames_go_on_as_if_alone() -> None:
    model, seen = network(), pairs(2, 9)
    early, late = (Pairs(*(t[at : at + 1] for t in vars(seen).values())) for at in (0, 1))
    (first, state), (second, other) = (
        stepped(model, early),
        stepped(model, Pairs(*(t[:, :4] for t in vars(late).values()))),
    )
    both = PoseState(torch.cat([state.stored, other.stored]), torch.cat([state.frames, other.frames]))
    step, _ = model.step(
        both,
        Pairs(*(torch.cat([a[:, 8], b[:, 4]]) for a, b in zip(vars(early).values(), vars(late).values(), strict=True))),
    )
    alone, _ = model.step(other, Pairs(*(t[:, 4] for t in vars(late).values())))
    torch.testing.assert_close(step.turn[1], alone.turn[0])
    assert first.turn.shape[1] == 9 and second.turn.shape[1] == 4


def test_what_is_remembered_does_not_grow() -> None:
    model = network()
    _, early = stepped(model, pairs(1, 3))
    _, late = stepped(model, pairs(1, 30))
    assert early.stored.shape == late.stored.shape == (1, 2, 2, 2, model.room, 8)
    assert int(late.frames) == 30


@pytest.mark.parametrize(("options", "sees"), [({}, True), ({"anchored": False}, False)])
def test_the_first_frame_stays_in_sight_only_as_the_anchor(options: dict[str, Any], sees: bool) -> None:
    model, seen = network(**options), pairs(1, 18)
    changed = Pairs(*(t.clone() for t in vars(seen).values()))
    changed.then[:, 0] += 0.1
    with torch.no_grad():
        before, after = model(seen), model(changed)
    assert torch.equal(before.confidence[:, -1], after.confidence[:, -1]) != sees
    assert not torch.equal(before.confidence[:, 1], after.confidence[:, 1])


def test_no_step_depends_on_a_later_frame() -> None:
    model, seen = network(), pairs(1, 10)
    changed = Pairs(*(t.clone() for t in vars(seen).values()))
    changed.then[:, 6:] += 0.1
    with torch.no_grad():
        before, after = model(seen), model(changed)
    assert torch.equal(before.turn[:, :6], after.turn[:, :6]) and not torch.equal(before.turn[:, 6], after.turn[:, 6])


def test_every_weight_learns() -> None:
    model = network()
    steps = model(pairs(2, 6))
    (steps.turn.square().sum() + sum(part.sum() for part in steps[1:])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
