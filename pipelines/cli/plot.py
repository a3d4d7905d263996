"""The commands `plot` and `explain`: a figure of one asset's results and alerts, and of the sensors that moved them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tocsin.pipelines.runtime.declare.curves import Curve
    from tocsin.pipelines.runtime.declare.pipeline import AlertRule
    from tocsin.pipelines.runtime.settings import Settings
    from tocsin.pipelines.ui.data.assets import Assets, History

KINDS = ("png", "svg")
POINTS = 4000
"""Most rows that are drawn: more than the figure's width in pixels."""
KEYS = 5
"""Assets that an error names."""


Table = Annotated[str, typer.Argument(metavar="PIPELINE", help="Pipeline, or another table with results.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The asset.")]
Since = Annotated[
    str | None,
    typer.Option(help="Start: an age such as 1d, or a time such as 2026-01-31 [a week before its newest row]."),
]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="PNG or SVG file, by its suffix [PIPELINE-KEY.png].")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def plot(
    context: typer.Context,
    pipeline: Table,
    key: Key,
    since: Since = None,
    out: Out = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Draw this column instead of the usual ones; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Draw one asset's results over event time, with its alerts and the levels at which they are raised (PNG or SVG)."""
    _picture(context.obj.settings(), pipeline, key, since, out, column or (), json=json)


def explain(
    context: typer.Context, pipeline: Table, key: Key, since: Since = None, out: Out = None, json: Json = False
) -> None:
    """Draw one asset's results as `plot` does, and below how much each sensor moved them, if the model explains itself."""
    _picture(context.obj.settings(), pipeline, key, since, out, (), json=json, explained=True)


def _picture(
    settings: Settings,
    pipeline: str,
    key: str,
    since: str | None,
    out: Path | None,
    column: Sequence[str],
    *,
    json: bool,
    explained: bool = False,
) -> None:
    """Draw one asset into a file, and say what was drawn."""
    from tocsin.pipelines.cli.console import out as console
    from tocsin.pipelines.cli.console import say_json, working
    from tocsin.pipelines.cli.times import at, moment
    from tocsin.pipelines.runtime.declare.errors import ConfigError
    from tocsin.pipelines.runtime.lake.storage import write_aside
    from tocsin.pipelines.ui.data.alert_feed import recorded
    from tocsin.pipelines.ui.data.assets import Assets
    from tocsin.pipelines.ui.figure import content, draw

    file = out or Path(re.sub(r"[^\w.-]", "_", f"{pipeline}-{key}") + ".png")
    if (kind := file.suffix.lower().removeprefix(".")) not in KINDS:
        raise ConfigError(f"--out {file}: expected a name that ends in .png or .svg, got another; rename it")
    lake = settings.lake.open()
    assets, first = Assets(lake), at(moment(since)) if since else None
    history = assets.history(pipeline, key, since=first, points=POINTS)
    if not history.total:
        raise ConfigError(_nothing(assets, pipeline, key, since))
    curves = _chosen(pipeline, history, column)
    if explained and history.explanation is None:
        raise ConfigError(
            f"results of {pipeline}: expected a column that explains them, got none; draw them without: "
            f"tocsin plot {pipeline} {key}"
        )
    with working(f"{pipeline}: drawing"):
        alerts = recorded(lake, pipeline, key)
        explanation = history.explanation if explained else None
        title, rules = f"{pipeline}: {key}", _rules(settings, pipeline)
        figure = draw(history.rows, curves, alerts, rules, title=title, explanation=explanation)
        write_aside(file, content(figure, kind))
    times = history.rows["event_time"]
    if json:
        say_json(
            {
                "file": str(file),
                "rows": history.total,
                "from": times[0],
                "to": times[-1],
                "columns": [c.name for c in curves],
            }
        )
    else:
        console.print(
            f"{history.total:,} rows from {times[0]:%Y-%m-%d %H:%M:%S} to {times[-1]:%Y-%m-%d %H:%M:%S} UTC: {file}"
        )


def _nothing(assets: Assets, pipeline: str, key: str, since: str | None) -> str:
    """Why there is nothing to draw: no such asset, or no row of it in this time."""
    whole = assets.history(pipeline, key, points=3)
    if whole.total:
        newest = whole.rows["event_time"][-1]
        return (
            f"results of {pipeline}: expected rows of {key} since {since}, got none; its newest row is of "
            f"{newest:%Y-%m-%d %H:%M:%S} UTC; choose an earlier --since"
        )
    keys = assets.latest(pipeline)["key"].to_list()
    others = f" and {len(keys) - KEYS:,} others" if len(keys) > KEYS else ""
    known = f"such as {', '.join(keys[:KEYS])}{others}" if keys else "none: the table is empty"
    return f"results of {pipeline}: expected an asset of the table, got {key}; its assets: {known}"


def _chosen(pipeline: str, history: History, names: Sequence[str]) -> Sequence[Curve]:
    """The curves to draw.

    Raises:
        ConfigError: the table has no column that can be drawn, or not the ones that are named.
    """
    from tocsin.pipelines.runtime.declare.errors import ConfigError

    known = {curve.name: curve for curve in history.curves}
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"--column {unknown[0]}: expected a column of numbers ({', '.join(known) or 'none'}), got another; choose one"
        )
    if not known:
        raise ConfigError(f"results of {pipeline}: expected a column of numbers, got none; there is nothing to draw")
    return [known[name] for name in names] or history.drawn or [next(iter(known.values()))]


def _rules(settings: Settings, pipeline: str) -> Sequence[AlertRule]:
    """The pipeline's rules, for their levels. A table need not be a pipeline's, and a model need not be there to draw."""
    from tocsin.pipelines.cli.console import note
    from tocsin.pipelines.cli.deployment import drafted, scratch_lake
    from tocsin.pipelines.runtime.declare.errors import TocsinError

    try:
        with scratch_lake() as scratch:
            return drafted(settings, pipeline, scratch).rules
    except TocsinError as reason:
        note(f"drawn without the levels of its rules: {reason}")
        return ()
