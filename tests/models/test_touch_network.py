"""A frame's vector and a window's output: which inputs matter, which do not, and that both learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tocsin.models.touch.config import DecodeConfig, EyeConfig, NetworkConfig, TouchConfig
from tocsin.models.touch.decode import decode, spots
from tocsin.models.touch.loss import Targets, losses, targets
from tocsin.models.touch.moving import MOTION
from tocsin.models.touch.network import RARE, Projection, Tokens, TouchNet
from tocsin.models.touch.truth import Touch

SMALL = NetworkConfig(tokens=8, heads=2, dim=16, past=9, ahead=6, layers=2, kernel=3, reach=2, dropout=0.0)
SCENE, HANDS = Tokens(MOTION + 2, (2, 3)), Tokens(MOTION, (4, 4))
EVERY_WAY = torch.tensor([[True, True], [True, False], [False, True], [False, False]])


def network(config: NetworkConfig = SMALL) -> TouchNet:
    torch.manual_seed(0)
    return TouchNet(config, scene=SCENE, hands=HANDS)


def frames(batch: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scene, hands, presence of hands, and boxes."""
    generator = torch.Generator().manual_seed(1)
    scene = torch.randn(batch, 6, SCENE.width, generator=generator)
    hands = torch.randn(batch, 2, 16, HANDS.width, generator=generator)
    corners = torch.rand(batch, 2, 2, 2, generator=generator).sort(dim=2).values
    return scene, hands, EVERY_WAY[torch.arange(batch) % 4], corners.flatten(2)


@pytest.mark.parametrize("content", [torch.nan, torch.inf, 1e30])
def test_what_is_given_of_an_absent_hand_changes_nothing(content: float) -> None:
    results = []
    for value in (0.0, content):
        net, (scene, hands, present, boxes) = network(), frames()
        hands = torch.where(present[..., None, None], hands, value)
        boxes = torch.where(present[..., None], boxes, value)
        out = net.look(scene, hands, present, boxes)
        out.square().sum().backward()
        results.append([out, *(p.grad for p in net.look.parameters())])
    for zero, other in zip(*results, strict=True):
        assert torch.equal(zero, other) and torch.isfinite(other).all()


def test_all_that_is_given_of_a_frame_matters_and_so_does_which_hand_it_is() -> None:
    net, (scene, hands, present, boxes) = network(), frames()
    out = net.look(scene, hands, present, boxes)

    def changed(**other: Tensor) -> list[bool]:
        given = {"scene": scene, "hands": hands, "present": present, "boxes": boxes} | other
        return (net.look(*given.values()) - out).abs().amax(1).gt(1e-4).tolist()

    some = [True, True, True, False]  # all frames with hands
    assert changed(scene=scene.flip(2)) == [True] * 4
    assert changed(hands=hands.flip(2)) == changed(boxes=1 - boxes) == some
    assert changed(hands=hands.flip(1), present=present.flip(1), boxes=boxes.flip(1)) == some
    assert changed(present=~present) == [True] * 4
    assert changed(boxes=boxes + torch.tensor([0.01, 0, 0, 0])) == some


def test_where_hands_are_reaches_the_vector_as_centre_size_and_presence() -> None:
    net, (scene, hands, present, _) = network(), frames()
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.75, 0.75]]).expand(4, 2, 4)
    with torch.no_grad():
        net.look.join.weight[:, :-10] = 0
        net.look.join.weight[:, -10:] = torch.eye(16, 10)
        net.look.join.bias.zero_()
    left, right, none = [0.0, 0, 0, 0, 1], [0, 0.5, 2, 1, 1], [0] * 5
    rest = [0] * 6
    expected = [[*left, *right, *rest], [*left, *none, *rest], [*none, *right, *rest], [*none, *none, *rest]]
    torch.testing.assert_close(net.look(scene, hands, present, boxes), torch.tensor(expected, dtype=torch.float32))


def test_each_hands_own_tokens_have_their_own_place_in_the_vector() -> None:
    net, (scene, hands, _, boxes) = network(), frames()
    with torch.no_grad():
        net.look.join.weight.zero_()[:8, 8:16] = torch.eye(8)  # pass on only the left hand's tokens
        net.look.join.bias.zero_()
    other = hands.flip(0)
    both = torch.ones(4, 2, dtype=torch.bool)
    out = net.look(scene, hands, both, boxes)
    assert torch.equal(net.look(scene, torch.stack([hands[:, 0], other[:, 1]], 1), both, boxes), out)
    assert not torch.allclose(net.look(scene, torch.stack([other[:, 0], hands[:, 1]], 1), both, boxes), out)
    none = net.look(scene, hands, both & torch.tensor([False, True]), boxes)
    assert torch.equal(none[:, :8], net.look.absent.expand(4, 8))


def test_tokens_are_standardised_by_those_that_it_was_fitted_to() -> None:
    projection, tokens = Projection(MOTION, 3, 0.0), 5 + 2 * torch.randn(50, 7, MOTION)
    tokens[..., 2] = 4.0  # a channel that never changes
    projection.fit(tokens.half())
    with torch.no_grad():
        projection.reduce.weight.copy_(torch.eye(3, MOTION))
        projection.reduce.bias.zero_()
        out = projection(tokens.half().float()).flatten(0, 1)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std(0), torch.tensor([1.0, 1, 0]), atol=1e-3, rtol=0)


def test_only_hands_that_are_there_set_the_scale() -> None:
    net, (scene, hands, present, _) = network(), frames()
    net.look.fit(scene, torch.where(present[..., None, None], hands, torch.nan), present)
    torch.testing.assert_close(net.look.scene.centre, scene.mean((0, 1)))
    torch.testing.assert_close(net.look.hands.centre, hands[present].mean((0, 1)))
    torch.testing.assert_close(net.look.hands.scale, hands[present].flatten(0, 1).std(0))


def test_frames_and_windows_do_not_depend_on_each_other_and_there_may_be_none() -> None:
    net, given = network().eval(), frames()
    seen = net.look(*given)
    window, there = torch.randn(3, 16, 16), torch.rand(3, 16) < 0.8
    judged = net.predict(window, there)
    for b in range(3):
        torch.testing.assert_close(net.look(*(x[b : b + 1] for x in given))[0], seen[b])
        for one, together in zip(net.predict(window[b : b + 1], there[b : b + 1]), judged, strict=True):
            torch.testing.assert_close(one[0], together[b])
    assert net.look(*(x[:0] for x in given)).shape == (0, 16)
    assert net.predict(window[:0], there[:0]).logits.shape == (0, 16, 2, 2)


def test_an_absent_frame_of_a_window_changes_nothing_and_its_place_in_the_window_matters() -> None:
    net, window = network(), torch.randn(2, 16, 16)
    there = torch.ones(2, 16, dtype=torch.bool)
    there[:, :5] = False
    zero, nan = (net.predict(torch.where(there[..., None], window, value), there) for value in (0.0, torch.nan))
    assert all(torch.equal(a[there], b[there]) for a, b in zip(zero, nan, strict=True))
    with torch.no_grad():
        net.moments.copy_(net.moments.flip(0))
    assert not torch.allclose(net.predict(window, there).logits[there], zero.logits[there], atol=1e-3)


def test_an_untrained_network_holds_events_for_rare() -> None:
    judged = network().predict(torch.randn(64, 16, 16), torch.ones(64, 16, dtype=torch.bool))
    assert 0.5 * RARE < judged.logits.sigmoid().median() < 2 * RARE
    assert judged.displacement.abs().median() < 1


def test_the_default_fits_into_5_mb_and_trains_all_of_its_parameters() -> None:
    config = NetworkConfig(dropout=0.0)
    net = network(config)
    assert 4 * sum(p.numel() for p in net.parameters()) < 5_000_000
    seen = net.look(*frames(config.window))
    judged = net.predict(seen[None], torch.ones(1, config.window, dtype=torch.bool))
    (judged.logits.square().sum() + judged.displacement.square().sum() + net.holding(seen).sum()).backward()
    blind = {"look.told.key.bias"}  # shifts all logits of a query equally, which softmax ignores
    assert all(p.grad is not None and (name in blind or p.grad.any()) for name, p in net.named_parameters())


def test_it_learns_at_which_frame_something_changes() -> None:
    """One channel steps up at contact and down at release, another does so for the other hand."""
    generator, count, train = torch.Generator().manual_seed(2), 160, 128
    contacts = torch.randint(1, 9, (count, 2), generator=generator)
    releases = contacts + torch.randint(3, 7, (count, 2), generator=generator)
    x, there = 0.1 * torch.randn(count, 16, 16, generator=generator), torch.ones(count, 16, dtype=torch.bool)
    truth = [
        [Touch(hand, *ends) for hand, ends in enumerate(rows)] for rows in torch.stack([contacts, releases], 2).tolist()
    ]
    for clip, touches in zip(x, truth, strict=True):
        for touch in touches:
            clip[touch.contact : touch.release, touch.hand] += 1
    labels, displacement = (torch.stack(part) for part in zip(*(targets(t, 16) for t in truth), strict=True))

    net = network(replace(SMALL, layers=1, kernel=5))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for step in range(120):
        some = slice(step * 32 % train, step * 32 % train + 32)
        loss = sum(losses(*net.predict(x[some], there[some]), Targets(labels[some], displacement[some]), there[some]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()

    judged = net.eval().predict(x[train:], there[train:])
    decoded = decode(judged.logits.sigmoid(), judged.displacement, radius=4).detach()
    events, right, found = 4 * (count - train), 0, 0
    for scores, touches in zip(decoded, truth[train:], strict=True):
        happened = [(t.hand, kind, at) for t in touches for kind, at in enumerate((t.contact, t.release))]
        said = spots(scores, apart=3, min_score=0.4)
        found += len(said)
        right += sum(any((s.hand, s.kind) == (h, k) and abs(s.frame - at) <= 1 for s in said) for h, k, at in happened)
    assert right > 0.95 * events and right > 0.85 * found


def test_a_config_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    config = TouchConfig(
        eye=EyeConfig(source="elsewhere", hands_layer=None, crop=64, version="abc"),
        network=replace(SMALL, expansion=3),
        decode=DecodeConfig(radius=3, apart=2, contact=0.25, release=0.75),
    )
    config.save(tmp_path)
    assert TouchConfig.load(tmp_path) == config
    assert (config.network.window, config.decode.wait, config.decode.thresholds) == (16, 5, (0.25, 0.75))
    path = tmp_path / "config.json"
    saved = path.read_text()
    for name in ("crop", "network"):
        path.write_text(saved.replace(f'"{name}"', '"other"'))
        with pytest.raises(ValueError, match=r"config\.json: .*other.*; train the model again"):
            TouchConfig.load(tmp_path)


def test_errors_name_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"past \+ 1 \+ ahead \(38\) must be a multiple of 8 to be halved 3 times"):
        NetworkConfig(past=25)
    with pytest.raises(ValueError, match=r"kernel \(8\) must be odd"):
        NetworkConfig(kernel=8)
    scene, hands, present, boxes = frames()
    with pytest.raises(ValueError, match=r"hands is \[4, 2, 15, 48\], expected \[B, 2, 16, 48\]: 15 must be 16"):
        network().look(scene, hands[:, :, 1:], present, boxes)
    with pytest.raises(ValueError, match=r"window is \[1, 15, 16\], expected \[B, 16, 16\]: 15 must be 16"):
        network().predict(torch.zeros(1, 15, 16), torch.ones(1, 15, dtype=torch.bool))
