"""An engine of the simulated fleet: what a sensor shows, what is planned, and what is left."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes

from tocsin.models.rul.simulation.maintained import PERIOD, run_to_failure

UNIT, LEVEL, SCALE = 8, 1586.8, 3


def draw(axes: Axes) -> None:
    readings, intervals = run_to_failure(engines=12, seed=0)
    engine = readings.filter(unit=UNIT)
    cycle, period = engine["cycle"].to_numpy(), PERIOD.total_seconds() * 1000
    first = engine["time"][0] - period  # of cycle 0
    for kind, begin, end, load in intervals.filter(asset=str(UNIT)).select("kind", "from", "to", "load").iter_rows():
        begin, end = (begin - first) / period, (end - first) / period
        if begin > cycle[-1]:
            continue
        if kind == "load":
            axes.axvspan(
                begin, min(end, cycle[-1]), color="tab:red" if load > 1 else "tab:green", alpha=0.12, linewidth=0
            )
        else:
            axes.axvline(end, color="black", linestyle="-" if kind == "overhaul" else ":", linewidth=1)
    axes.plot(cycle, (cycle[-1] - cycle).clip(max=125), color="tab:blue", label="cycles left, at most 125")
    wear = 10 + SCALE * engine.select((pl.col("s3") - LEVEL).rolling_mean(5, min_samples=1))["s3"]
    axes.plot(cycle, wear, color="grey", linewidth=0.8, label="a temperature")
    axes.set_xlabel("cycle; dotted: a wash, solid: an overhaul; red and green: more and less load")
    axes.set_yticks([0, 50, 100])
    axes.legend(loc="center left")
    axes.set_title("A maintained engine")
