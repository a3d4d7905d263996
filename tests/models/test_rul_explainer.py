"""Explanations: they are about the prediction, and about rows that are there."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_rul_network import config, inputs
from tocsin.models.rul.data import lives
from tocsin.models.rul.explainer import Explainer, integrated_gradients
from tocsin.models.rul.faithfulness import faithfulness
from tocsin.models.rul.model import load
from tocsin.models.rul.network import build
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.simulation.fleet import run_to_failure


@pytest.mark.parametrize("kind", ["fading", "recurrent"])
def test_integrated_gradients_sum_to_the_difference_from_mean_readings(kind: str) -> None:
    torch.manual_seed(0)
    network, given = build(config(kind)).eval(), inputs(kind)
    maps = integrated_gradients(network, given)
    average = network(given._replace(steps=torch.zeros_like(given.steps)))[:, 0]
    torch.testing.assert_close(maps.sum((1, 2)), network(given)[:, 0] - average, atol=2e-2, rtol=0)
    assert (maps[~given.mask] == 0).all()


def test_an_explainer_learns_maps_and_says_nothing_of_rows_that_are_not_there() -> None:
    torch.manual_seed(0)
    given = inputs("recurrent", (30, 12, 1) * 40)
    maps = given.steps * torch.tensor([0.5, 0.0, -0.2])
    explainer = Explainer(steps=30, channels=3)
    before = (explainer(given) - maps).square().mean()
    explainer.fit(given, maps, epochs=200)
    assert (explainer(given) - maps).square().mean() < before / 4
    assert (explainer(given)[~given.mask] == 0).all()


def test_deleting_what_the_shipped_models_explanations_rank_highest_moves_its_prediction_most() -> None:
    model = load(device="cpu")
    known = lives(run_to_failure(engines=20, seed=11), model.config)
    samples = Samples(known, model.config, model.parts.scaling)
    worn = (known.rul < 100).nonzero()[::7, 0]
    found = faithfulness(model.parts.network, model.parts.explainer, samples.at(worn), cap=model.config.cap)
    assert found["deleted"] > 2 * found["deleted_random"]
    assert found["agreement"] > 0.5
