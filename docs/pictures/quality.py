"""A simulated plant with a sensor that drifts for 32 readings, and the quality of its windows."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes

from tocsin.models.quality.faults import REASONS
from tocsin.models.quality.model import PLANTS
from tocsin.models.quality.simulation.faulty import CHANNELS, readings
from tocsin.pipelines.quality import pipeline
from tocsin.pipelines.runtime import Model, replay

SEED, ROWS, BEFORE, AFTER = 17, 1200, 120, 80


def draw(axes: Axes) -> None:
    table, faults = readings(len(REASONS), ROWS, seed=SEED)
    fault = next(fault for fault in faults if fault.reason == "drift")
    made = pipeline({"silent": "9999d"}, Model(PLANTS, "plants", "cpu"))
    own = table.filter(pl.col("asset") == fault.asset)
    rows, _ = replay(made, own.to_arrow().cast(made.schema))
    own = own.with_row_index("at").filter(pl.col("at").is_between(fault.first - BEFORE, fault.last + AFTER))
    times = own.select(pl.col("time").dt.cast_time_unit("ms"), "at")
    verdicts = rows.join(times, on="time").sort("at")
    for channel in CHANNELS:
        values = own[channel]
        spread = (values.max() - values.min()) or 1.0  # type: ignore[operator]
        bad = channel in fault.channels
        axes.plot(
            own["at"],
            (values - values.min()) / spread + 1.2,
            linewidth=1.6 if bad else 0.6,
            color="tab:red" if bad else "lightgrey",
            label=f"{channel}, drifting" if bad else None,
        )
    axes.step(verdicts["at"], verdicts["quality"], where="post", label="quality")
    axes.axvspan(fault.first, fault.last, alpha=0.15, color="tab:red")
    axes.set_xlabel("reading")
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylim(-0.1, 2.7)
    axes.legend(loc="upper left", ncols=2)
    axes.set_title("Eight sensors of a plant, each on a scale of its own (above), and the quality of its windows")
