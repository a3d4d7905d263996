"""The field model: motions of a hall change nothing, untrained it is the Gaussian process, absent sensors have no say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tocsin.models.field.config import FieldConfig
from tocsin.models.field.estimator import Estimator
from tocsin.models.field.evaluate import baselines
from tocsin.models.field.hall import COLUMNS, KINDS, ROWS, Hall
from tocsin.models.field.inputs import Inputs
from tocsin.models.field.model import HALLS, FieldModel, load
from tocsin.models.field.network import NETWORKS, FieldNetwork, NetworkSize
from tocsin.models.field.picture import png
from tocsin.models.field.scenes import Drawn, draw, simulated
from tocsin.models.vision.picture import decode

CPU = torch.device("cpu")


def drawn(sensors: int = 9, places: int = 20) -> Drawn:
    scenes = simulated(4, 5)
    return draw(scenes, [sensors] * 4, places, np.random.default_rng(1))


def restless(kind: str, dtype: torch.dtype = torch.float32) -> FieldNetwork:
    """A network of which no layer is 0."""
    torch.manual_seed(3)
    network = FieldNetwork(kind=kind, size=NetworkSize())
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.to(dtype).eval()


def moved(inputs: Inputs, angle: float, shift: tuple[float, float]) -> Inputs:
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    by = torch.tensor(shift, dtype=torch.float64)
    there = (inputs.walls[..., 2:] != inputs.walls[..., :2]).any(-1, keepdim=True)
    walls = torch.cat([inputs.walls[..., at : at + 2] @ turn.T + by for at in (0, 2)], dim=-1)
    return replace(
        inputs,
        sensors=inputs.sensors @ turn.T + by,
        places=inputs.places @ turn.T + by,
        walls=torch.where(there, walls, 0.0),
    )


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("angle", "shift"), [(0.7, (0.0, 0.0)), (0.0, (300.0, -50.0)), (2.5, (-90.0, 1000.0))])
def test_a_hall_that_is_turned_and_moved_has_the_same_field(
    angle: float, shift: tuple[float, float], dtype: torch.dtype, off: float
) -> None:
    inputs = drawn().inputs
    network = load(HALLS, "cpu").network if dtype == torch.float32 else restless("geometric", dtype)
    with torch.inference_mode():
        here, there = network(inputs), network(moved(inputs, angle, shift))
        turned = restless("plain")(moved(inputs, 2.5, (0, 0)))[0]
        assert not torch.allclose(restless("plain")(inputs)[0], turned, atol=0.1)
    for before, after in zip(here, there, strict=True):
        size = float(before.abs().max())
        torch.testing.assert_close(after / size, before / size, atol=off, rtol=0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_untrained_it_is_the_gaussian_process(kind: str) -> None:
    inputs = drawn().inputs
    network = FieldNetwork(kind=kind, size=NetworkSize())
    estimate, spread = FieldModel(FieldConfig(network=kind), network, CPU)(inputs)
    expected = baselines(inputs, (2.0, 2.0))["gaussian process"]
    torch.testing.assert_close(estimate, expected.float(), atol=1e-3, rtol=0)
    assert (spread > 0).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_absent_sensors_and_padding_have_no_say(kind: str) -> None:
    inputs, network = drawn(9).inputs, restless(kind)
    readings = inputs.readings.clone()
    readings[:, 6:] = torch.nan
    model = FieldModel(FieldConfig(network=kind), network, CPU)
    gone = model(replace(inputs, readings=readings))
    fewer = model(replace(inputs, sensors=inputs.sensors[:, :6], readings=inputs.readings[:, :6]))
    alone = [model(Inputs(*(getattr(inputs, name)[at : at + 1] for name in vars(inputs)))) for at in range(4)]
    for part in range(2):
        torch.testing.assert_close(gone[part], fewer[part], atol=1e-3, rtol=1e-4)
        together = torch.cat([each[part] for each in alone])
        torch.testing.assert_close(together, model(inputs)[part], atol=1e-3, rtol=1e-4)


def test_the_order_of_sensors_does_not_matter_and_another_unit_of_readings_changes_the_unit_alone() -> None:
    inputs, model = drawn().inputs, load(HALLS, "cpu")
    order = torch.tensor([3, 1, 2, 0, 8, 7, 6, 5, 4])
    mixed = replace(inputs, sensors=inputs.sensors[:, order], readings=inputs.readings[:, order])
    torch.testing.assert_close(model(mixed)[0], model(inputs)[0], atol=1e-3, rtol=1e-4)
    raised = model(replace(inputs, readings=inputs.readings + 100))
    torch.testing.assert_close(raised[0] - 100, model(inputs)[0], atol=1e-2, rtol=1e-4)


def test_fewer_than_three_readings_give_nothing() -> None:
    inputs, model = drawn(3).inputs, load(HALLS, "cpu")
    readings = inputs.readings.clone()
    readings[0, 0] = torch.nan
    estimate, spread = model(replace(inputs, readings=readings))
    assert estimate[0].isnan().all() and spread[0].isnan().all()
    assert not estimate[1:].isnan().any()
    assert model(inputs[:0])[0].shape == (0, 20)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_model_is_loaded_as_it_was(kind: str, tmp_path: Path) -> None:
    config = FieldConfig(network=kind, widen=(1.1, 0.9), power=(2.0, 3.0))
    model = FieldModel(config, restless(kind), CPU)
    model.save(tmp_path)
    again = load(tmp_path, "cpu")
    assert again.config == config and again.parameters == model.parameters < 200_000
    inputs = drawn().inputs
    assert all(torch.equal(a, b) for a, b in zip(model(inputs), again(inputs), strict=True))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": "deep"}, "network: expected one of geometric, plain, got deep"),
        ({"widen": (1.0,)}, r"widen: expected 2 numbers above 0, got \[1.0\]"),
        ({"power": (1.0, 0.0)}, r"power: expected 2 numbers above 0, got \[1.0, 0.0\]"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FieldConfig(**change)  # type: ignore[arg-type]


def halls() -> list[Hall]:
    return [scene.hall for scene in simulated(3, 6)]


def test_a_map_does_not_depend_on_what_else_is_in_the_batch() -> None:
    estimator = Estimator(load(HALLS, "cpu"), halls())
    torch.manual_seed(0)
    which = torch.tensor([0, 2, 1, 2])
    readings = torch.randn(4, max(len(hall.sensors) for hall in halls())) * 5 + 20
    readings[1, 2] = torch.nan
    whole = estimator(which, readings)
    for row in range(4):
        alone = estimator(which[row : row + 1], readings[row : row + 1])
        for name, value in whole.items():
            assert torch.equal(alone[name].nan_to_num(-1e9)[0], value.nan_to_num(-1e9)[row]), name
    outside = ~torch.from_numpy(halls()[2].holds(halls()[2].cells))
    assert (whole["map"][1].isnan() == outside).all() and whole["map"].shape == (4, ROWS * COLUMNS)


def test_a_picture_shows_the_map_the_right_way_up() -> None:
    hall = Hall.of(
        "h",
        {"kind": [*KINDS][1], "outline": [[0, 0], [20, 0], [20, 10], [0, 10]], "sensors": {"a": [1, 1], "b": [18, 9]}},
    )
    field = hall.cells[:, 1].astype(np.float32)  # warm at the top
    file = png(hall, field, np.array([True, False]), np.array([10.0, 5.0]))
    picture = decode(file).astype(int)
    assert file == png(hall, field, np.array([True, False]), np.array([10.0, 5.0])) and len(file) < 20_000
    red, blue = picture[..., 0] - picture[..., 2], picture[..., 2] - picture[..., 0]
    rows, columns = picture.shape[:2]
    assert (
        red[12 : rows // 4, 40 : columns - 40].mean() > 40 > 0 < blue[rows // 2 : rows - 40, 40 : columns - 40].mean()
    )
    assert png(hall, np.full(ROWS * COLUMNS, np.nan, np.float32), np.array([False, False]))
