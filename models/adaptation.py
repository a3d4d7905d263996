"""The command `adapt`: an adapter of one site for each seed, judged on the site's recordings; the best is kept with the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from tocsin.models.adapters import Sites
from tocsin.models.attempts import Attempt, keep
from tocsin.models.domain import Adaptation, Trained
from tocsin.models.gate import Candidate
from tocsin.models.imputer.model import beside

FOLDS = 10
Report = Callable[[int, int], None]
"""Called after each adapter that is fitted: adapters done, adapters in all."""
N = TypeVar("N")


class Adaptable(Protocol):
    """A model that takes adapters of sites."""

    sites: Sites | None

    @property
    def parameters(self) -> int: ...
    def at(self, site: str) -> Self: ...
    def save(self, directory: Path) -> None: ...


M = TypeVar("M", bound=Adaptable)


@dataclass(frozen=True)
class Adapted(Generic[M]):
    """A model with a site's adapter.

    Args:
        figures: over the site's recordings, each judged by an adapter of the others; those of the network alone end in `_shared`.
            With a single recording only these.
        curve: the loss of each epoch or step.
    """

    model: M
    figures: dict[str, float]
    curve: list[float]

    @property
    def size(self) -> int:
        """Number of the adapter's parameters."""
        assert self.model.sites
        return self.model.sites.size


def by_the_others(
    count: int, fit: Callable[[list[int]], N], *, folds: int = FOLDS, progress: Report = lambda done, total: None
) -> tuple[list[tuple[list[int], N]], N]:
    """Fit on a site's recordings, and for each part of them on the others: so each recording is judged by what has not seen it.

    Args:
        count: number of recordings; a single one has no others.
        fit: on the recordings of these numbers.
        folds: number of parts, at most.

    Returns:
        The numbers of each part with what was fitted on the others, and what was fitted on all.
    """
    parts, apart = min(count, folds) if count > 1 else 0, list[tuple[list[int], N]]()
    for part in range(parts):
        others = [number for number in range(count) if number % parts != part]
        apart.append(([*range(part, count, parts)], fit(others)))
        progress(part + 1, parts + 1)
    whole = fit([*range(count)])
    progress(parts + 1, parts + 1)
    return apart, whole


def own_or_shared(model: M, site: str) -> M:
    """The model of a site; the shared one if it has no adapter for it."""
    return model.at(site) if model.sites and site in model.sites.names else model


def adapt_and_keep(
    run: Adaptation,
    fit: Callable[[int, Report], Adapted[M]],
    *,
    domain: str,
    figure: str,
    candidate: Callable[[Path, float, float], Candidate],
    line: Callable[[Adapted[M]], str],
    params: Mapping[str, Any],
    lower: bool = False,
) -> Trained:
    """Fit an adapter for each seed, and register the model with the best of them.

    Args:
        fit: a seed, and what is told of the progress -> the model with its site's adapter.
        figure: the name of the figure that judges an adapter.
        candidate: the folder, that figure (NaN if nothing judged it), and that of the shared network -> a candidate for champion.
        line: what an adapter came to, as text.
        params: for MLflow.
        lower: whether a lower figure is better.
    """
    name, folder = run.place(domain)
    attempts: dict[int, Attempt[M]] = {}
    for seed in run.seeds:
        task = run.progress.add_task(f"seed {seed}")

        def report(done: int, total: int, task: Any = task) -> None:
            run.progress.update(task, completed=done, total=total)

        found = fit(seed, report)
        figures = {f"site_{name}": value for name, value in found.figures.items() if not math.isnan(value)}
        attempts[seed] = Attempt(
            found.model,
            figures.get(f"site_{figure}", math.nan),
            [("loss", loss, step) for step, loss in enumerate(found.curve)]
            + [(name, value, len(found.curve)) for name, value in figures.items()],
            figures=figures,
            line=line(found),
        )
    return keep(
        run,
        attempts,
        domain=domain,
        place=(name, folder),
        candidate=lambda seed: candidate(
            folder, attempts[seed].score, attempts[seed].figures.get(f"site_{figure}_shared", math.nan)
        ),
        params=lambda kept: {"site": run.site, **params},
        lower=lower,
        imputer=beside(run.base),
    )
