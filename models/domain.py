"""The interface of a domain to the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypedDict

from tocsin.models.champion import Registered, Registrar

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

SHIPPED = "shipped"
"""The version of weights that come with Tocsin."""
SIM = "sim"
"""Passed instead of a folder to use simulated data."""
FOREIGN = 0.05
"""Share of rows outside a model's domain above which figures are doubtful."""


@dataclass(frozen=True)
class Option:
    """An option of a command: annotate a keyword-only parameter of `Domain.train`, `evaluate` or `feed` with it.

    Args:
        help: one line; the default is appended.
        metavar: name of its value; "" names it by its type.
        least: the least number allowed.
    """

    help: str
    metavar: str = ""
    least: int | None = None


DecimalComma = Annotated[bool, Option("Numbers in CSV files have a decimal comma, as in 400,5.")]

WithWrongLabels = Annotated[
    bool, Option("Some labels may be wrong: train with losses and a split that they harm less.")
]
WithImputer = Annotated[bool, Option('Train an imputer beside the model, for `impute = "network"`.')]
ImputerSteps = Annotated[int | None, Option("Training steps of the imputer.", least=1)]


class Progress(Protocol):
    """A progress bar with the interface of rich's."""

    def add_task(self, description: str, *, total: float | None = None) -> Any: ...
    def update(
        self,
        task_id: Any,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
    ) -> None: ...
    def advance(self, task_id: Any, advance: float = 1) -> None: ...


@dataclass(frozen=True)
class Training:
    """A request to train.

    Args:
        data: folders, or `SIM`.
        name: in the registry; None for the domain's own.
        out: the folder for the model; None for `trained/<name>`.
        seeds: one model is trained per seed; the best on validation is kept.
    """

    data: Sequence[str]
    name: str | None
    out: Path | None
    seeds: Sequence[int]
    registrar: Registrar
    progress: Progress

    def single(self) -> Path:
        """The only folder.

        Raises:
            ValueError: there is more than one.
        """
        if len(self.data) > 1:
            raise ValueError(f"--data: expected one folder, got {', '.join(self.data)}; name one")
        return Path(self.data[0])

    def place(self, default: str) -> tuple[str, Path]:
        """The model's name and folder; `default` is the name where none was given."""
        name = self.name or default
        return name, self.out or Path("trained", name)


@dataclass(frozen=True)
class Adaptation(Training):
    """A request to adapt a model to one site.

    Args:
        site: its name.
        base: the folder of the model that is adapted.
    """

    site: str
    base: Path


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Args:
        seed: the seed of the model that is kept.
        seeds: figures of each seed, with `seed`.
        lines: printed for a person.
        more: further facts, for JSON.
    """

    name: str
    folder: Path
    registered: Registered
    seed: int
    seeds: Sequence[Mapping[str, Any]]
    lines: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The result as JSON values."""
        version, refused, alias = self.registered
        model = {"model": str(self.folder), "name": self.name, "version": version, "refused": refused or None}
        model |= {"alias": alias if version and not refused else None}
        return {**model, "seed": self.seed, "seeds": list(self.seeds), **self.more}


class Report(TypedDict):
    """The JSON of `tocsin evaluate --json`, the same keys for every pipeline; docs/evaluate.md explains them."""

    pipeline: str
    model: str
    version: str
    data: str
    figures: dict[str, Any]
    parts: dict[str, dict[str, dict[str, Any]]]
    baselines: dict[str, dict[str, Any]]
    counted: dict[str, float]
    left_out: dict[str, int]
    in_domain: float | None
    doubt: str | None


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model. A figure that has no meaning, such as the recall where there is nothing to find, is None or NaN, never 0.

    Args:
        figures: over all data together.
        parts: a kind of part, such as "clips" -> the figures of each part by its name.
        baselines: the figures of what a model has to beat, by its name, such as "clock only"; they have names in `figures`.
        counted: how many units of each kind were judged, such as {"rooms": 2, "minutes": 20_000}.
        left_out: why units were not judged, such as "minutes without a known truth" -> how many; without those that are 0.
        in_domain: share of the rows that are like the training data; None: the model does not know.
        lines: printed for a person, about the parts.
        doubt: why the figures say little, such as data unlike the training data; the command then ends with status 3.
    """

    figures: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    counted: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    in_domain: float | None = None
    lines: Sequence[str] = ()
    doubt: str = ""

    def report(self, *, pipeline: str, model: str, version: str, data: str) -> Report:
        """The result as JSON values."""
        return {
            "pipeline": pipeline,
            "model": model,
            "version": version,
            "data": data,
            "figures": _known(self.figures),
            "parts": _known(self.parts),
            "baselines": _known(self.baselines),
            "counted": _known(self.counted),
            "left_out": {reason: count for reason, count in self.left_out.items() if count},
            "in_domain": _known(self.in_domain),
            "doubt": self.doubt or None,
        }


def shown(value: Any, digits: int) -> str:
    """A figure as text: n/a where it has no meaning, else a float with so many decimals."""
    return "n/a" if value is None else f"{value:z.{digits}f}" if isinstance(value, float) else str(value)


def _known(value: Any) -> Any:
    """A JSON value in which numbers that are not finite are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _known(item) for name, item in value.items()}
    return [_known(item) for item in value] if isinstance(value, list | tuple) else value


def foreign(pipeline: str, what: str, shares: Mapping[str, float], advice: str, *, most: float = FOREIGN) -> str:
    """Why figures say little where recordings are unlike the training data; "": they are like it.

    Args:
        what: the pipeline judges, such as "readings".
        shares: a recording -> the share of it that is unlike the training data.
        advice: what a person can do.
        most: the largest share that is accepted.
    """
    others = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items() if share > most)
    expected = f"{pipeline}: expected {what} like those that the model was trained on"
    return f"{expected}, got others: {others}; {advice}, or use --force to accept the figures" if others else ""


@dataclass(frozen=True)
class Calibrated:
    """A calibration of one asset.

    Args:
        figures: before and after.
        section: lines for `tocsin.toml`; empty: nothing changes.
        lines: printed for a person.
    """

    figures: Mapping[str, Any]
    section: Sequence[str] = ()
    lines: Sequence[str] = ()


class Shot(NamedTuple):
    """A picture `[H, W, 3]` uint8 RGB, and the fields of its message besides camera, sequence and time."""

    picture: NDArray[np.uint8]
    facts: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Feed:
    """Readings to send to a topic: tables, or shots of a camera.

    Args:
        total: number of rows, if known.
        announced: the intervals of context that became known since the last call, called before each table is sent: `asset`,
            `kind`, `from`, `to`, and numbers; times, or numbers of rows from the first one of this feed on. None: no context.
        rate: shots a second; tables are sent at the rate that the user requests.
        live: whether the shots arrive as they are taken.
        views: so many shots in a row are of one moment, one by each camera of a rig.
    """

    tables: Iterable[pl.DataFrame] = ()
    shots: Iterable[Shot] | None = None
    total: int | None = None
    announced: Callable[[], pl.DataFrame] | None = None
    rate: float = 1000.0
    live: bool = False
    views: int = 1


class Domain:
    """A domain: how its models are trained and scored, and what its recordings look like as a stream.

    The commands find it as `domain` in a pipeline's module. Options are the keyword-only parameters of the three methods, annotated
    with `Option`.
    """

    digits = 3
    """Number of decimals in printed figures."""

    def train(self, run: Training) -> Trained:
        """Train a model, save it and register it."""
        raise NotImplementedError

    def adapt(self, run: Adaptation) -> Trained:
        """Fit an adapter for one site, add it to the model, save that and register it.

        Raises:
            ValueError: the domain's models take no adapters.
        """
        raise ValueError("expected a pipeline whose model takes adapters, rul or occupancy, got another")

    def evaluate(self, folder: Path, version: str, data: str) -> Evaluation:
        """Score the model in a folder on recordings, or on `SIM`.

        Raises:
            FileNotFoundError, ValueError: from the readers.
        """
        raise NotImplementedError

    def calibrate(
        self,
        folder: Path,
        options: Mapping[str, Any],
        key: str,
        results: pl.DataFrame,
        labels: Path | pl.DataFrame,
    ) -> Calibrated:
        """Adapt the pipeline to one asset by a few days of its truth.

        Args:
            folder: the pipeline's model.
            options: the pipeline's, as configured.
            key: the asset.
            results: its rows of the pipeline's table.
            labels: a file with its truth, or its rows of the table of labels.

        Raises:
            ValueError: the domain's models are not calibrated, or there is too little truth.
        """
        raise ValueError("expected a pipeline whose model is calibrated by asset, such as occupancy, got another")

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Replay recordings as they would have arrived, or a simulation.

        Args:
            source: a folder, a file, an address or `SIM`.
            seed: of the simulation.
            rate: requested by the user; None for the domain's own.
            model: the folder of the pipeline's model, whose config may name the columns.
        """
        raise NotImplementedError
