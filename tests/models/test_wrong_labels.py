"""Training with wrong labels: the recipe's course, and each domain's training with it; without it nothing changes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.touches import CONFIG as TOUCH_CONFIG
from tests.support.touches import RECIPE as TOUCH_RECIPE
from tests.support.touches import eyes, seen
from tocsin.models.damage import train as damage
from tocsin.models.damage.config import DamageConfig
from tocsin.models.damage.lessons import UNKNOWN, Lessons
from tocsin.models.damage.trunk import WIDTH, Seen
from tocsin.models.occupancy import train as occupancy
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.touch import train as touch
from tocsin.models.wrong_labels.labels import Labels, Robust
from tocsin.models.wrong_labels.losses import cross_entropy, generalised_cross_entropy

RECIPES = [
    Robust(loss=loss, split=split, rest=rest)
    for loss, split, rest in (
        ("generalised", None, "robust"),
        ("symmetric", "mixture", "robust"),
        ("generalised", "mixture", "own"),
        ("generalised", "transport", "robust"),
    )
]


def batch(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    """Samples' numbers and the logarithms of predictions of three classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(60, generator=generator)[:count], torch.randn(count, 3, generator=generator).log_softmax(1)


def test_the_warm_up_has_the_robust_loss_and_trusted_labels_the_own_one() -> None:
    given, trusted = torch.arange(60) % 3, torch.arange(60) < 20
    labels = Labels(given, classes=3, robust=Robust(warm=0.5), steps=10, trusted=trusted)
    at, log_p = batch(0)
    got, target = labels.loss(at, log_p), F.one_hot(given[at], 3).float()
    robust, own = generalised_cross_entropy(log_p, target, 0.7), cross_entropy(log_p, target)
    torch.testing.assert_close(got, torch.where(trusted[at], own, robust))
    assert trusted[at].any() and not trusted[at].all()
    torch.testing.assert_close(
        labels.loss(at, log_p, own=torch.full((8,), 9.0))[trusted[at]], torch.full((int(trusted[at].sum()),), 9.0)
    )


@pytest.mark.parametrize("split", ["mixture", "transport"])
def test_after_the_warm_up_wrong_labels_no_longer_count_and_right_ones_have_the_own_loss(split: str) -> None:
    truth = torch.arange(90) % 3
    wrong = torch.arange(90) % 5 == 0
    given = torch.where(wrong, (truth + 1) % 3, truth)
    labels = Labels(given, classes=3, robust=Robust(split=split, warm=0.5, splits=1, rest="robust"), steps=4)  # type: ignore[arg-type]
    log_p = (4.0 * torch.eye(3)[truth]).log_softmax(1)
    everyone = torch.arange(90)
    for _ in range(2):
        labels.loss(everyone, log_p)
    assert (labels.right == 0).all()
    got = labels.loss(everyone, log_p)
    assert (labels.right[wrong] < 0.1).all() and (labels.right[~wrong] > 0.9).all()
    target = F.one_hot(given, 3).float()
    expected = torch.where(wrong, generalised_cross_entropy(log_p, target, 0.7), cross_entropy(log_p, target))
    torch.testing.assert_close(got, expected, atol=0.2, rtol=0)


def test_what_is_not_remembered_never_counts_as_right_and_copies_are_one_sample() -> None:
    labels = Labels(
        torch.zeros(3, dtype=torch.int64), classes=2, robust=Robust(warm=0.5, splits=1, memory=0.5), steps=4
    )
    p = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.4, 0.6], [0.9, 0.1]])
    target = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    labels.loss(torch.tensor([0, 0, 2, -1]), p.log(), target=target)
    assert labels.seen.tolist() == [True, False, True]
    torch.testing.assert_close(labels._said[0], p[:2].mean(0))
    labels.loss(torch.tensor([0, -1]), p[[3, 0]].log(), target=target[:2])
    torch.testing.assert_close(labels._said[0], (p[:2].mean(0) + p[3]) / 2)
    got = labels.loss(torch.tensor([-1, 1]), p[:2].log(), target=target[:2])
    torch.testing.assert_close(got, generalised_cross_entropy(p[:2].log(), target[:2], 0.7))  # never seen: not judged


def test_rejected_labels_train_the_networks_own_earlier_predictions() -> None:
    given = torch.tensor([0] * 40)
    labels = Labels(given, classes=2, robust=Robust(rest="own", warm=0.5, splits=1, memory=0.0), steps=4)
    p = torch.tensor([[0.9, 0.1]] * 30 + [[0.1, 0.9]] * 10)
    for _ in range(2):
        labels.loss(torch.arange(40), p.log())
    now = torch.tensor([[0.5, 0.5]] * 40)
    got = labels.loss(torch.arange(40), now.log())
    assert (labels.right[30:] < 0.01).all()
    bounded = generalised_cross_entropy(now.log(), torch.tensor([[1.0, 0.0]]).expand(40, 2), 0.7)
    expected = 0.8 * cross_entropy(now.log(), p) + 0.2 * bounded  # as far as it was sure
    torch.testing.assert_close(got[30:], expected[30:], atol=1e-3, rtol=0)


def test_a_warm_up_with_the_own_loss_is_plain_training_and_others_keep_it() -> None:
    robust = Robust(start="own", rest="robust", warm=0.5, splits=1)
    labels = Labels(torch.arange(60) % 3, classes=3, robust=robust, steps=2)
    at, log_p = batch(0)
    at[:3] = -1
    target = F.one_hot(torch.arange(8) % 3, 3).float()
    torch.testing.assert_close(labels.loss(at, log_p, target=target), cross_entropy(log_p, target))
    after = labels.loss(at, log_p, target=target)
    torch.testing.assert_close(after[:3], cross_entropy(log_p, target)[:3])
    assert labels.judged and (after[3:] < cross_entropy(log_p, target)[3:] - 0.1).any()


def rooms(wrong: float, seed: int) -> list[list[occupancy.Room]]:
    """A room occupied every other hour, when its level is higher; a share of its half hours has the wrong label."""
    generator = torch.Generator().manual_seed(seed)
    occupied = (torch.arange(1200) // 60 % 2).float()
    features = 0.5 * torch.randn(1200, 3, generator=generator) + 2 * occupied[:, None] * torch.tensor([1.0, 0, 0])
    flip = (torch.rand(40, generator=generator) < wrong).repeat_interleave(30)
    return [[occupancy.Room(features, torch.where(flip, 1 - occupied, occupied))]]


OCCUPANCY = OccupancyConfig(features=("level", "past", "ventilation"), window=10)


@pytest.mark.parametrize("robust", RECIPES)
def test_an_occupancy_model_learns_from_wrong_labels(robust: Robust) -> None:
    losses = list[float]()
    recipe = occupancy.Recipe(steps=100, batch=64, balance=1.0, robust=robust)
    model = occupancy.fit(rooms(0.3, 0), OCCUPANCY, recipe, progress=lambda _, loss: losses.append(loss))
    assert occupancy.score(model, rooms(0, 1)[0])["f1"] > 0.9
    assert len(losses) == 100 and all(loss == loss for loss in losses)


def lessons(count: int = 48) -> list[Lessons]:
    """Random tokens whose first channel is the class; two copies of each picture, every fourth picture is a drawing."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(count) // 2
    kinds = label % 4
    tokens, wide = (
        torch.randn(count, width, 4 // n, 4 // n, generator=generator) for width, n in ((WIDTH - 112, 1), (112, 2))
    )
    tokens[:, 0] += 3 * kinds[:, None, None]
    shares = torch.where((label // 4 % 4 == 0)[:, None, None], torch.rand(count, 4, 4, generator=generator), UNKNOWN)
    grey = torch.randint(255, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    source = torch.where(shares[:, 0, 0] == UNKNOWN, 0, 1)
    return [Lessons(Seen(tokens, wide, grey), kinds, shares, source, label)]


def test_drawings_are_trusted_and_copies_of_a_picture_share_a_label() -> None:
    labels = damage._labels(lessons(), Robust(), 10)
    assert len(labels.right) == 24 and labels.right.sum() == 8
    assert labels.right[:4].all() and not labels.right[4:16].any()


@pytest.mark.parametrize("robust", RECIPES)
def test_a_damage_network_is_trained_with_each_recipe(robust: Robust) -> None:
    losses = list[float]()
    recipe = damage.Recipe(steps=12, pictures=12, robust=robust)
    damage.fit(lessons(), [1.0, 1.0], DamageConfig(), recipe, seed=0, report=lambda _, loss: losses.append(loss))
    assert len(losses) == 12 and all(loss == loss for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])


def test_intact_pictures_teach_places_as_far_as_they_are_thought_intact() -> None:
    network = damage.DamageNetwork(DamageConfig().network)
    of = lessons()[0]
    judged = network(of.seen)
    options = {"places": 1.0, "of_pictures": torch.zeros(())}
    whole, half, none = (
        float(damage.loss(judged, of.kinds, of.shares, right=right, **options).detach())  # type: ignore[arg-type]
        for right in (None, torch.full((48,), 0.5), torch.zeros(48))
    )
    assert whole - half == pytest.approx(half - none, rel=1e-4) and whole > half


@pytest.mark.parametrize("robust", [RECIPES[0], RECIPES[2]])
def test_a_touch_network_is_trained_with_each_recipe(robust: Robust) -> None:
    losses = list[float]()
    recipe = replace(TOUCH_RECIPE, steps=50, robust=robust)
    touch.fit(seen([0], eyes(), frames=60), TOUCH_CONFIG, eyes(), recipe, progress=lambda _, loss: losses.append(loss))
    assert len(losses) == 50 and sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_training_is_plain_unless_asked() -> None:
    from tocsin.models.damage.domain import Damage
    from tocsin.models.occupancy.domain import Occupancy
    from tocsin.models.touch.domain import Touch

    for module, domain in ((damage, Damage), (occupancy, Occupancy), (touch, Touch)):
        assert module.Recipe().robust is None
        hints, defaults = get_type_hints(domain.train, include_extras=True), domain.train.__kwdefaults__
        assert defaults["robust"] is False and get_args(hints["robust"])[0] is bool
