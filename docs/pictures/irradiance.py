"""Three days of a simulated site: measured, forecast an hour before with its interval, and the cloudless sky."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tocsin.models.irradiance.inputs import column
from tocsin.models.irradiance.model import load
from tocsin.models.irradiance.samples import Samples
from tocsin.models.irradiance.simulation.weather import Site, simulate
from tocsin.models.irradiance.train import judge

SITE = Site("roof", latitude=40, longitude=0, elevation=100, dry=0.4, aerosol=0.1)


def draw(axes: Axes) -> None:
    samples = Samples.of(simulate(SITE, days=8, seed=3))
    samples = samples.keep(samples.time >= samples.time[-1] - 72 * 3_600_000)
    out = {name: values.numpy() for name, values in judge(load(device="cpu"), samples).items()}
    hours = np.arange(len(samples.time))
    measured, clear = (column(samples.windows, name)[:, -1].numpy() for name in ("ghi", "clear"))
    axes.fill_between(hours + 1, out["forecast_low"], out["forecast_high"], alpha=0.3, label="interval", linewidth=0)
    axes.plot(hours + 1, out["forecast"], label="forecast an hour before")
    axes.plot(hours, measured, color="black", linewidth=1, label="measured")
    axes.plot(hours, clear, color="grey", linewidth=0.8, linestyle="--", label="cloudless sky")
    axes.set_xlabel("hour")
    axes.set_ylabel("W/m²")
    axes.legend(loc="upper right", ncols=2)
    axes.set_ylim(0, 900)
    axes.set_title("A simulated site in January")
