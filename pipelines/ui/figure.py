"""A figure of one asset for paper: its curves over event time, its alerts, and the levels at which rules raise them."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from tocsin.pipelines.runtime.declare.curves import Curve, Explanation, levels
from tocsin.pipelines.runtime.declare.pipeline import AlertRule
from tocsin.pipelines.ui.data.board import AlertState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = "#1a1d21", "#565d66", "#d5d9de"
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9")
"""Curves of one axis. They differ in grey and for colour-blind readers, too; see `DASHES`."""
DASHES = ("-", "--", "-.", ":")
SEVERITIES = {"critical": "#b3171f", "warning": "#c26a00"}
OTHER = "#5b4a9c"
"""The colour of other severities."""
NAMED = 12
"""Most alerts that are named in the figure."""
WIDTH, HEIGHT, LANE = 8.0, 2.6, 0.3
"""Inches: of the figure, of an axis, and of a curve that is true or false."""
SENSOR = 0.16
"""Inches of a sensor in a map."""
DPI = 150
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "tocsin",
}


def draw(
    rows: pl.DataFrame,
    curves: Sequence[Curve],
    alerts: Sequence[AlertState] = (),
    rules: Sequence[AlertRule] = (),
    *,
    title: str = "",
    explanation: Explanation | None = None,
) -> Figure:
    """Draw one asset: an axis for each of the curves' axes, one above the other, and a map of the explanation below.

    From raise to clear an alert is a shade over all axes, its severity's colour; the main axis, the first one, has its signs.

    Args:
        rows: of a results table, by event time.
        alerts: of the asset; those outside of the rows' time are left out.
        rules: whose levels are drawn as lines, where they compare a drawn column with a constant.
        explanation: the column that says how much each sensor moved the results.
    """
    import matplotlib
    from matplotlib.figure import Figure

    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.axis or curve.name, []).append(curve)
    heights = [LANE * len(group) + 0.25 if _is_boolean(rows, group) else HEIGHT for group in groups.values()]
    heights += [SENSOR * len(explanation.sensors) + 0.25] if explanation else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights) + 1.0), layout="constrained", facecolor="white")
        grid = {"height_ratios": heights}
        axes = [*figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw=grid)[:, 0]]
        for axis, group in zip(axes, groups.values(), strict=False):
            if _is_boolean(rows, group):
                _lanes(axis, rows, group)
            else:
                _lines(axis, rows, group)
                _levels(axis, group, rules)
        times = rows["event_time"]
        shown = [a for a in reversed(alerts) if a.alert.time <= times[-1] and (a.cleared or times[-1]) >= times[0]]
        _alerts(axes[: len(groups)], rows, next(iter(groups.values()))[0], shown)
        if explanation:
            _map(axes[-1], explanation.by_sensor(rows), explanation)
        _time_axis(axes[-1])
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def content(figure: Figure, kind: str) -> bytes:
    """A figure as a file's bytes, the same for the same figure. `kind` is png or svg."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _is_boolean(rows: pl.DataFrame, group: Sequence[Curve]) -> bool:
    return all(rows.schema[curve.name] == pl.Boolean for curve in group)


def _lines(axes: Axes, rows: pl.DataFrame, group: Sequence[Curve]) -> None:
    """Draw numbers as lines; a few rows as points, too."""
    for n, curve in enumerate(group):
        values = rows[curve.name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        colour, ends = COLOURS[n % len(COLOURS)], [f"{curve.name}{end}" for end in ("_low", "_high")]
        if {*ends} <= {*rows.columns}:
            low, high = (rows[end].cast(pl.Float64).fill_null(float("nan")).to_numpy() for end in ends)
            axes.fill_between(rows["event_time"].to_numpy(), low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            rows["event_time"].to_numpy(),
            values,
            color=colour,
            linestyle=DASHES[n // len(COLOURS) % len(DASHES)] if n >= len(COLOURS) else DASHES[n],
            linewidth=1.3,
            marker="." if rows.height < 40 else None,
            label=curve.name,
        )
    if len(group) == 1:
        axes.set_ylabel(group[0].label)
        return
    units = {curve.unit for curve in group if curve.unit}
    axes.set_ylabel(f"{group[0].axis} [{', '.join(sorted(units))}]" if units else group[0].axis)
    axes.legend(loc="upper left", ncols=len(group), fontsize=8, bbox_to_anchor=(0, 1.0), borderaxespad=0.2)


def _lanes(axes: Axes, rows: pl.DataFrame, group: Sequence[Curve]) -> None:
    """Draw what is true or false as a bar for as long as it is true, one line for each column."""
    times = rows["event_time"].to_numpy()
    for n, curve in enumerate(reversed(group)):
        holds = rows[curve.name].fill_null(False).to_numpy()
        axes.fill_between(
            times, n + 0.15, n + 0.85, where=holds, step="post", color=COLOURS[0], alpha=0.75, linewidth=0
        )
    axes.set_ylim(0, len(group))
    axes.set_yticks([n + 0.5 for n in range(len(group))], [curve.name for curve in reversed(group)])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _map(axes: Axes, rows: pl.DataFrame, explanation: Explanation) -> None:
    """Draw how much each sensor moved the results: blue where it raised them, red where it lowered them."""
    from matplotlib.dates import date2num

    if rows.is_empty():  # all are of a model that did not explain itself
        return
    values = rows.select(explanation.sensors).to_numpy().T
    most = max(abs(values).max(initial=0.0), 1e-9)
    times = date2num(rows["event_time"].to_numpy())
    mesh = axes.pcolormesh(times, range(len(values)), values, cmap="RdBu", vmin=-most, vmax=most, shading="nearest")
    axes.set_yticks(range(len(values)), explanation.sensors, fontsize=7)
    axes.grid(visible=False)
    axes.figure.colorbar(mesh, ax=axes, label=explanation.unit, pad=0.01, aspect=30)


def _levels(axes: Axes, group: Sequence[Curve], rules: Sequence[AlertRule]) -> None:
    """Draw a line at each level of a rule, with its rule's name at the right."""
    names = {curve.name for curve in group}
    for rule in rules:
        for column, values in levels(rule).items():
            for value in values if column in names else ():
                colour = SEVERITIES.get(rule.severity, OTHER)
                axes.axhline(value, color=colour, linewidth=0.9, linestyle=(0, (5, 3)))
                place = axes.get_yaxis_transform()
                axes.text(
                    1.005, value, f"{rule.name} {value:g}", transform=place, color=colour, va="center", fontsize=8
                )


def _alerts(all_axes: Sequence[Axes], rows: pl.DataFrame, main: Curve, alerts: Sequence[AlertState]) -> None:
    """Mark alerts: a shade while one is raised, ▲ where it was raised and ▽ where it cleared, and its rule's name."""
    from matplotlib.dates import date2num

    top, first, last = all_axes[0], rows["event_time"][0], rows["event_time"][-1]
    names_fit = len(alerts) <= NAMED
    for state in alerts:
        colour, began = SEVERITIES.get(state.alert.severity, OTHER), date2num(state.alert.time)
        begin, end = max(state.alert.time, first), min(state.cleared or last, last)
        for axes in all_axes:
            axes.axvspan(date2num(begin), date2num(end), color=colour, alpha=0.10, linewidth=0)
            if state.alert.time >= first:
                axes.axvline(began, color=colour, linewidth=0.7)
        if names_fit and state.alert.time >= first:
            place = top.get_xaxis_transform()
            style: dict[str, Any] = {"rotation": 90, "va": "top", "ha": "right", "fontsize": 7}
            top.text(began, 0.98, state.alert.rule, transform=place, color=colour, **style)
    signs: dict[str, tuple[str, str, list[datetime]]] = {}
    for label, colour, marker, time in _signs(alerts):
        if first <= time <= last:
            signs.setdefault(label, (colour, marker, []))[2].append(time)
    values = rows.select("event_time", pl.col(main.name).cast(pl.Float64).alias("value")).drop_nulls()
    for label, (colour, marker, times) in signs.items():
        heights, fill = [_value_at(values, time) for time in times], colour if marker == "^" else "white"
        shape: dict[str, Any] = {"markersize": 6, "markerfacecolor": fill, "linestyle": "", "zorder": 3}
        top.plot([date2num(time) for time in times], heights, marker, color=colour, label=label, **shape)
    if signs:
        _legend(top, signs)


def _legend(axes: Axes, labels: Collection[str]) -> None:
    """A legend above the axes, beside the one of its curves."""
    handles = [(h, label) for h, label in zip(*axes.get_legend_handles_labels(), strict=True) if label in labels]
    of_curves = axes.get_legend()
    axes.legend(*zip(*handles, strict=True), loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8)
    if of_curves:
        axes.add_artist(of_curves)


def _signs(alerts: Sequence[AlertState]) -> Iterator[tuple[str, str, str, datetime]]:
    """What happened, its colour, its marker and its time."""
    for state in alerts:
        severity = state.alert.severity
        colour = SEVERITIES.get(severity, OTHER)
        yield f"{severity} raised", colour, "^", state.alert.time
        if state.cleared:
            yield f"{severity} cleared", colour, "v", state.cleared


def _value_at(values: pl.DataFrame, time: datetime) -> float:
    """The main curve's last value until a time, its first one before that; NaN if it has none."""
    if values.is_empty():
        return float("nan")
    return values["value"][max(int(values["event_time"].search_sorted(time, side="right")) - 1, 0)]


def _time_axis(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
    axes.set_xlabel("event time (UTC)")
    axes.margins(x=0.01)
