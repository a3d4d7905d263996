"""The networks and the model: smart persistence before training, the night, unknown hours, the interval, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.test_irradiance_features import readings
from tocsin.models.irradiance.config import IrradianceConfig
from tocsin.models.irradiance.features import MOST, RAW, STEPS
from tocsin.models.irradiance.inputs import GUIDED, PLAIN, column, inputs
from tocsin.models.irradiance.interval import Interval
from tocsin.models.irradiance.model import OUTPUTS, SITES, IrradianceModel, Parts, load
from tocsin.models.irradiance.network import KINDS, IrradianceNetwork, NetworkSize
from tocsin.models.irradiance.samples import Samples

SMALL = NetworkSize(conv=8, lstm=8, hidden=8)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.of(readings(days=3))


def untrained(kind: str) -> IrradianceModel:
    torch.manual_seed(0)
    config = IrradianceConfig(network=kind, size=SMALL)
    return IrradianceModel(config, Parts(config), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["physics", "attention"])
def test_an_untrained_network_is_smart_persistence(samples: Samples, kind: str) -> None:
    out = untrained(kind)(samples.windows[samples.by_day])
    assert torch.allclose(out["forecast"], samples.persistence[samples.by_day], atol=1e-3)
    assert torch.equal(out["persistence"], samples.persistence[samples.by_day])


def test_without_the_physics_it_is_plain_persistence(samples: Samples) -> None:
    out = untrained("plain")(samples.windows)
    assert torch.allclose(out["forecast"], column(samples.windows, "ghi")[:, -1], atol=1e-3)


def test_what_the_plain_network_reads_needs_no_sun(samples: Samples) -> None:
    moved = samples.windows.clone()
    for name in ("clear", "ahead", "clearness", "swing", "height"):
        moved[:, :, RAW.index(name)] = 0.123
    assert set(PLAIN) < set(GUIDED)
    assert torch.equal(inputs(moved, physics=False), inputs(samples.windows, physics=False))
    assert not torch.equal(inputs(moved, physics=True), inputs(samples.windows, physics=True))


@pytest.mark.parametrize("kind", KINDS)
def test_ends_hold_the_forecast_and_nothing_is_below_zero(samples: Samples, kind: str) -> None:
    torch.manual_seed(1)
    model = untrained(kind)
    torch.nn.init.normal_(model.parts.network.head[-1].weight)  # type: ignore[arg-type]
    model.parts.interval.low -= 0.05
    out = model(samples.windows)
    assert set(out) == set(OUTPUTS)
    assert (out["forecast_low"] >= 0).all()
    assert (out["forecast_low"] <= out["forecast"]).all() and (out["forecast"] <= out["forecast_high"]).all()
    assert ((out["ramp"] >= 0) & (out["ramp"] <= 1)).all()


def test_at_night_the_forecast_is_zero_and_certain(samples: Samples) -> None:
    night = (column(samples.windows, "ahead")[:, -1] < 1).numpy()
    out = untrained("physics")(samples.windows[night])
    assert night.sum() > 10
    assert all((out[name] == 0).all() for name in ("forecast", "forecast_low", "forecast_high", "ramp"))


def test_unknown_air_and_beam_change_nothing_but_what_they_tell_and_no_hour_gives_no_forecast(samples: Samples) -> None:
    window = samples.windows.clone()
    window[:, :, RAW.index("dni") :] = torch.nan
    assert torch.isfinite(load(SITES, "cpu")(window)["forecast"]).all()
    window[:, :, RAW.index("ghi")] = torch.nan
    assert load(SITES, "cpu")(window)["forecast"].isnan().all()


def test_another_shape_is_refused_and_no_window_gives_nothing() -> None:
    model = untrained("physics")
    assert all(len(values) == 0 for values in model(torch.empty(0, STEPS, len(RAW))).values())
    with pytest.raises(ValueError, match=r"windows are \[2, 3, 4\], expected \[B, 24, 13\]"):
        model(torch.zeros(2, 3, 4))


def test_a_model_is_the_same_after_it_was_stored(samples: Samples, tmp_path: Path) -> None:
    model = load(SITES, "cpu")
    model.save(tmp_path)
    again = load(tmp_path, "cpu")
    assert again.config == model.config and again.parameters == model.parameters
    for name, values in model(samples.windows).items():
        assert torch.equal(values.nan_to_num(-1), again(samples.windows)[name].nan_to_num(-1))


def test_the_shipped_weights_are_small_and_finite() -> None:
    assert sum(file.stat().st_size for file in SITES.iterdir()) < 5_000_000
    model = load(SITES, "cpu")
    assert model.config.network == "physics"
    assert all(torch.isfinite(values).all() for values in model.parts.state_dict().values())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"network": "cnn"}, "network: expected one of physics, attention, plain, got cnn"),
        ({"window": 12}, "window: expected 24 hours, got 12"),
        ({"coverage": 1.5}, "coverage: expected a share between 0 and 1, got 1.5"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        IrradianceConfig(**given)  # type: ignore[arg-type]


def test_a_calibrated_interval_holds_its_share_in_each_band() -> None:
    generator = torch.Generator().manual_seed(0)
    forecast = torch.rand(20_000, generator=generator)
    target = (forecast + (0.05 + 0.3 * forecast) * torch.randn(20_000, generator=generator)).clamp(min=0)
    shares = torch.stack([forecast, forecast, forecast], dim=1)
    interval = Interval()
    interval.fit(shares[:10_000], target[:10_000], coverage=0.9)
    low, high = interval.ends(shares[10_000:])
    inside = (low <= target[10_000:]) & (target[10_000:] <= high)
    assert inside.double().mean() == pytest.approx(0.9, abs=0.01)
    bright = forecast[10_000:] > 0.8
    assert inside[bright].double().mean() == pytest.approx(0.9, abs=0.03)


def test_gradients_reach_every_weight(samples: Samples) -> None:
    network = IrradianceNetwork(kind="attention", size=SMALL)
    torch.nn.init.normal_(network.head[-1].weight)  # type: ignore[arg-type]
    network(samples.windows[samples.by_day]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())
    assert MOST > 1
