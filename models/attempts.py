"""Training with several seeds: keeps, saves and registers the model that is best on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tocsin.models import gate, registry
from tocsin.models.domain import Trained, Training
from tocsin.models.imputer.model import Imputer, remove
from tocsin.models.imputer.train import Outcome as Filling


class Model(Protocol):
    """The interface that `keep` needs of a model."""

    @property
    def parameters(self) -> int: ...
    def save(self, directory: Path) -> None: ...


M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Attempt(Generic[M]):
    """The model of one seed.

    Args:
        score: on validation; selects the best seed. NaN without validation.
        curve: name, value and step of each metric of the training.
        figures: metrics that are reported with the seed.
        line: the same metrics as text.
    """

    model: M
    score: float
    curve: Sequence[tuple[str, float, int]]
    figures: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""


class Outcome(Protocol):
    """What the training of one seed came to."""

    @property
    def model(self) -> Any: ...
    @property
    def figures(self) -> Mapping[str, float]: ...
    @property
    def score(self) -> float: ...


R = TypeVar("R", bound=Outcome)


@dataclass(frozen=True)
class Fitted(Generic[M]):
    """The model of one seed, and its figures on validation data.

    Args:
        by: the figure by which seeds are compared.
    """

    model: M
    figures: Mapping[str, float]
    by: str

    @property
    def score(self) -> float:
        """The figure by which seeds are compared."""
        return self.figures[self.by]


Report = Callable[[int, float], None]
"""Called with each step of a training and its loss."""


def each_seed(
    run: Training,
    fit: Callable[[int, Report], R],
    *,
    steps: int,
    line: Callable[[dict[str, float]], str],
    prefix: str = "",
) -> tuple[dict[int, R], dict[int, Attempt[Any]]]:
    """Train with each seed, and show how far it is.

    Args:
        fit: a seed, and what to call in each of `steps` steps -> its outcome.
        line: figures -> text.
        prefix: of the figures' names in the curve.
    """
    outcomes, attempts = dict[int, R](), dict[int, Attempt[Any]]()
    for seed in run.seeds:
        task, curve = run.progress.add_task(f"seed {seed}", total=steps), registry.Curve()

        def report(step: int, loss: float, task: Any = task, curve: registry.Curve = curve) -> None:
            curve.add(step, loss)
            run.progress.update(task, completed=step + 1)

        outcomes[seed] = outcome = fit(seed, report)
        figures = dict(outcome.figures)
        attempts[seed] = Attempt(outcome.model, outcome.score, curve.end(figures, prefix), figures, line(figures))
    return outcomes, attempts


def keep(
    run: Training,
    attempts: Mapping[int, Attempt[M]],
    *,
    domain: str,
    place: tuple[str, Path],
    candidate: Callable[[int], gate.Candidate],
    params: Callable[[M], Mapping[str, Any]],
    lower: bool = False,
    lines: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
    imputer: Filling | Imputer | None = None,
) -> Trained:
    """Save the best attempt and register it.

    Args:
        attempts: by seed.
        place: the model's name and folder.
        candidate: called after the best attempt is saved: its seed -> the candidate for champion.
        params: a model -> parameters for MLflow, in addition to data, seeds and the number of parameters.
        lower: whether a lower score is better.
        lines: printed before the lines of the attempts.
        more: further facts, for JSON.
        imputer: saved beside the model and registered with it, newly trained or that of an earlier version; None: it has none.
    """
    name, folder = place
    seed = gate.best({number: attempt.score for number, attempt in attempts.items()}, lower=lower)
    best = attempts[seed]
    best.model.save(folder)
    filling = imputer if isinstance(imputer, Filling) else None
    if imputer:
        (imputer.imputer if isinstance(imputer, Filling) else imputer).save(folder)
    else:
        remove(folder)  # an earlier model's
    facts = {"data": " ".join(run.data), "seed": seed, "seeds": " ".join(map(str, attempts))}
    register = partial(
        registry.register,
        folder,
        domain=domain,
        params={**facts, "parameters": best.model.parameters, **params(best.model)},
        metrics=[*best.curve, *((name, value, 0) for name, value in (filling.figures if filling else {}).items())],
        data=run.data,
        attempts=[registry.Attempt(number, attempt.curve) for number, attempt in attempts.items()],
    )
    return Trained(
        name=name,
        folder=folder,
        registered=run.registrar.register(candidate(seed), register, name=name),
        seed=seed,
        seeds=[{"seed": number, **attempt.figures} for number, attempt in attempts.items()],
        lines=[
            *lines,
            *(f"seed {number}{attempt.line}" for number, attempt in attempts.items()),
            *([filling.line] if filling else []),
        ],
        more={**(more or {}), **({"imputer": dict(filling.figures)} if filling else {})},
    )
