"""Interpolations: at the sensors, with sensors that are absent, and against a Gaussian process written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tocsin.models.field.interpolation import LENGTHS, NOISES, inverse_distance, kriging, nearest


def scene(sensors: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places, sensors, readings of a smooth field, and which are there."""
    torch.manual_seed(0)
    at, places = torch.rand(3, sensors, 2), torch.rand(3, 20, 2)
    readings = torch.sin(3 * at[..., 0]) + at[..., 1]
    return places, at, readings, torch.ones(3, sensors, dtype=torch.bool)


def test_at_a_sensor_they_give_its_reading() -> None:
    _, at, readings, there = scene()
    for estimate in (nearest(at, at, readings, there), inverse_distance(at, at, readings, there, power=3.0)):
        torch.testing.assert_close(estimate, readings, atol=1e-3, rtol=1e-3)


def test_inverse_distance_is_the_weighted_mean_and_walls_add_to_the_distance() -> None:
    places, at = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    readings, there = torch.tensor([[3.0, 6.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert float(inverse_distance(places, at, readings, there, power=2.0)) == pytest.approx((3 + 6 / 4) / (1 + 1 / 4))
    walled = inverse_distance(places, at, readings, there, power=2.0, blocked=torch.tensor([[[1.0, 0.0]]]))
    assert float(walled) == 4.5


def test_absent_sensors_have_no_say() -> None:
    places, at, readings, there = scene()
    there[:, 5:] = False
    less = (places, at[:, :5], readings[:, :5], there[:, :5])
    readings = readings.masked_fill(~there, torch.nan)
    torch.testing.assert_close(nearest(places, at, readings, there), nearest(*less))
    torch.testing.assert_close(
        inverse_distance(places, at, readings, there, power=2.0), inverse_distance(*less, power=2.0)
    )
    weights, spread = kriging(places, at, readings, there)
    fewer, same = kriging(*less)
    assert (weights[..., 5:] == 0).all()
    torch.testing.assert_close(weights[..., :5], fewer)
    torch.testing.assert_close(spread, same)


def test_kriging_is_the_likeliest_gaussian_process() -> None:
    places, at, readings, there = scene()
    weights, spread = kriging(places, at, readings, there)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 20))

    def matern(a: np.ndarray, b: np.ndarray, length: float) -> np.ndarray:
        scaled = np.sqrt(3) * np.linalg.norm(a[:, None] - b, axis=-1) / length
        return (1 + scaled) * np.exp(-scaled)

    for hall in range(3):
        x, q, z = (each[hall].double().numpy() for each in (at, places, readings))
        best, one = -np.inf, np.ones(len(z))
        for length in LENGTHS:
            for noise in NOISES:
                inverse = np.linalg.inv(matern(x, x, length) + noise * np.eye(len(z)))
                mean = one @ inverse @ z / (one @ inverse @ one)
                amplitude = (z - mean) @ inverse @ (z - mean) / len(z)
                likelihood = -0.5 * len(z) * np.log(amplitude) + 0.5 * np.linalg.slogdet(inverse)[1]
                if likelihood > best:
                    best, near = likelihood, matern(q, x, length)
                    expected = mean + near @ inverse @ (z - mean)
                    variance = amplitude * (1 - np.einsum("nm,mk,nk->n", near, inverse, near))
        got = (weights[hall].double() @ readings[hall].double()).numpy()
        assert np.allclose(got, expected, atol=1e-4)
        assert np.allclose(spread[hall].numpy(), np.sqrt(variance), atol=1e-3)
