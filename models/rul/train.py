"""Training of a RUL model: a network, an interval calibrated on lives that it has not seen, and explanations."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from tocsin.models.context_branch import ContextBranch
from tocsin.models.gate import Candidate
from tocsin.models.rul.baseline import trivial
from tocsin.models.rul.config import TRAINING, RulConfig
from tocsin.models.rul.data import Lives, cmapss, joined, lives
from tocsin.models.rul.evaluate import judged, metrics
from tocsin.models.rul.explainer import integrated_gradients
from tocsin.models.rul.interval import Interval
from tocsin.models.rul.model import Parts, RulModel, load
from tocsin.models.rul.network import FusionNetwork, build, rul_loss
from tocsin.models.rul.reference import Reference
from tocsin.models.rul.samples import Samples
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.source import runs
from tocsin.models.rul.split import deal, hold_out
from tocsin.models.training import Optimization, begin

FEW = 20
"""Lives below which each fold has a scaling of its own: one that was fitted to all would tell much of the lives to be judged. With
several regimes it has not, since the other lives may lack one."""
EXPLAINED = 8192
"""Training rows from which explanations are learned."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        epochs: number of epochs; the learning rate rises and decays to 0 over them.
        share: share of the training rows drawn in one epoch. Adjacent rows of a life are alike.
        batch: rows per step.
        learning_rate: maximum, of AdamW.
        weight_decay: of AdamW.
        asymmetry: share of the asymmetric loss, 0 to 1; the rest is the squared error.
        noise: standard deviation of noise added to every input value, in standard deviations of the readings, or of the age.
        shift: standard deviation of an offset added to each channel of a row's steps, in the same unit. Assets of one kind differ
            in level by build and tuning, and a few dozen assets do not cover all differences.
        clip: largest norm of a gradient.
        steps: least number of steps in an epoch. Where the rows are too few for it, they are drawn several times.
        folds: parts of the training keys, at most one for each; the interval is calibrated on each part by a network trained on the
            others. 0: it is calibrated on the held-out keys.
        validation: share of the keys that are held out, the same keys for each seed; see `hold_out` for few keys.
    """

    epochs: int = 20
    share: float = 1.0
    batch: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    asymmetry: float = 0.3
    noise: float = 0.0
    shift: float = 0.3
    clip: float = math.inf
    steps: int = 30
    folds: int = 5
    validation: float = 0.2


WINDOWED = Recipe(
    epochs=20, share=0.5, batch=128, learning_rate=4e-3, weight_decay=1e-4, noise=0.3, shift=0.5, clip=1.0, folds=0
)
RECIPES = {"fading": Recipe(), "recurrent": WINDOWED, "fusion": WINDOWED}
"""The recipe of each kind of model."""
SIMULATED = {kind: replace(recipe, epochs=8, folds=0) for kind, recipe in RECIPES.items()}
"""The recipes for a simulated fleet, which has lives enough: fewer epochs, and held-out lives calibrate the interval."""


def read_recipe(path: Path, model: str | None = None) -> Recipe:
    """The recipe of a TOML file: that of its kind of model, or of `model`, with the changes of its table `[training]`.

    Raises:
        ValueError: the table has an unknown field.
    """
    values = tomllib.loads(path.read_text())
    changes, known = values.get(TRAINING, {}), [each.name for each in fields(Recipe)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"{path}: unknown {unknown} in [{TRAINING}]; expected any of {known}")
    return replace(RECIPES[model or RulConfig.from_toml(path).model], **changes)


Report = Callable[[int, int, float], None]
"""Called after each epoch of any network: epochs done, epochs in all, validation RMSE (NaN if there is none)."""


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve. The validation RMSE is NaN if no keys are held out."""

    epoch: int
    loss: float
    rmse: float


@dataclass(frozen=True)
class Outcome:
    """The model, its training curve, and its figures on lives that it was not trained on.

    Args:
        figures: `validation_rmse` and so on over the held-out keys; `folds_rmse` and so on over the training keys, each judged by
            the network that did not see it. See `evaluate.judged`. With `rmse_constant` and `rmse_age` in place of `rmse`, those
            of `baseline.trivial` on the same rows.
        sample: some rows, for a first prediction.
    """

    model: RulModel
    curve: list[Epoch]
    figures: dict[str, float]
    validation: Validation
    sample: pl.DataFrame

    @property
    def judges(self) -> str:
        """Which keys judge the model: `validation`, those held out; without any `folds`; `` without both."""
        return next((kind for kind in ("validation", "folds") if f"{kind}_rmse" in self.figures), "")

    @property
    def rmse(self) -> float:
        """RMSE of the keys that judge the model; NaN without any."""
        return self.figures.get(f"{self.judges}_rmse", math.nan)


@dataclass(frozen=True)
class Validation:
    """The keys that were held out.

    Args:
        table: their rows, as the readers give them.
        config: of the model that was trained.
        intervals: of their time, see `source.Runs`.
    """

    table: pl.DataFrame
    config: RulConfig
    intervals: pl.DataFrame | None = None

    def rmse(self, *models: RulModel) -> list[float]:
        """RMSE of each model, as `evaluate.judged` defines it. Labels are clamped to the smallest cap of the models."""
        cap = min(model.config.cap for model in models)
        errors = []
        for model in models:
            config = replace(model.config, label=self.config.label, failed=self.config.failed)
            known = lives(self.table, config, intervals=self.intervals)
            found = model.predict(known)
            rul, low, high = (found[name].clamp(max=cap) for name in ("rul", "rul_low", "rul_high"))
            errors.append(judged(rul, low, high, known.rul, cap)["rmse"])
        return errors


def train(
    *,
    data: Path,
    out: Path | None = None,
    config: RulConfig | Path | None = None,
    subset: str | None = None,
    decimal_comma: bool = False,
    context: Path | None = None,
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> Outcome:
    """Train a RUL model on run-to-failure data and save it.

    Args:
        data: folder of C-MAPSS files or, without `subset`, of CSV files; or `sim`.
        out: folder for `config.json` and `model.safetensors`; created if missing. None: nothing is written.
        config: columns and settings of the files, or a TOML file with them; None: those of the subset.
        subset: C-MAPSS subset; None: CSV files.
        decimal_comma: the CSV files have decimal commas, as in 400,5.
        context: a file of intervals, see `source.runs`.
        recipe: how to train; None: the kind's own, with the changes of a TOML file.
        seed: of the weights, the order of the rows and the noise.
        progress: called after each epoch.

    Raises:
        FileNotFoundError, ValueError: from the readers.
    """
    if isinstance(config, Path):
        recipe, config = recipe or read_recipe(config), RulConfig.from_toml(config)
    config = config or cmapss(subset or "FD001")
    found = runs(data, config, subset=subset, decimal_comma=decimal_comma, context=context)
    table, config = found.table, found.config
    recipe = recipe or RECIPES[config.model]
    known = lives(table, config, intervals=found.intervals)
    held = hold_out(known, recipe.validation, folds=recipe.folds)
    model, curve, figures = fit(known, config, recipe, seed=seed, progress=progress)
    if out:
        model.save(out)
    names = [known.keys[number] for number in held.tolist()]
    rows = table.filter(pl.col(config.key).cast(pl.String).is_in(names))
    return Outcome(
        model, curve, figures, Validation(rows, config, found.intervals), (rows if len(rows) else table).head(64)
    )


def candidate(trained: Outcome, folder: Path) -> Candidate:
    """The trained model, saved in `folder`, as a candidate for champion."""
    validation = trained.validation

    def outputs() -> list[Tensor]:
        model = load(folder, "cpu")
        return [*model.predict(lives(trained.sample, model.config)).values()]

    def against(other: Path) -> tuple[float, float]:
        champion = load(other, "cpu")
        if validation.table.is_empty():
            raise ValueError("no key is held out to compare them by, since so few failed; evaluate both on other lives")
        if (champion_types := champion.config.types) != (trained_types := trained.model.config.types):
            raise ValueError(
                f"it reads {_columns(champion_types)}; this one reads {_columns(trained_types)}, "
                "which a pipeline may not have"
            )
        rmse, champion_rmse = validation.rmse(trained.model, champion)
        return rmse, champion_rmse

    return Candidate(
        measure="validation RMSE",
        lower=True,
        score=trained.rmse if trained.judges else None,
        outputs=outputs,
        against=against,
    )


def fit(
    known: Lives, config: RulConfig, recipe: Recipe, *, seed: int = 0, progress: Report | None = None
) -> tuple[RulModel, list[Epoch], dict[str, float]]:
    """Train on lives. Validation holds out whole keys, because rows of one key are alike.

    Returns:
        The model, the curve of its network, and the figures of `Outcome`.

    Raises:
        ValueError: as `hold_out` does, or there are too few settings for the regimes.
    """
    begin(seed, threads=1)
    held = hold_out(known, recipe.validation, folds=recipe.folds)
    everyone = torch.arange(len(known.keys))
    training, validation = known.of(everyone[~torch.isin(everyone, held)]), known.of(held)
    parts = Parts(config)
    both = shown(training)
    parts.scaling = Scaling.fit(both, settings=len(config.settings), regimes=config.regimes, age=config.age)
    samples, unseen = (Samples(each, config, parts.scaling) for each in (both, validation))
    whole = torch.arange(len(training))
    folds = min(recipe.folds, len(training.keys)) if training.failed.sum() > 1 else 0
    total, done, curve, figures = (folds + 1) * recipe.epochs, 0, list[Epoch](), dict[str, float]()
    rows = torch.arange(len(samples))
    for network, loss in epochs(samples, rows, config, recipe):
        parts.network, done = network, done + 1
        found = predict(network, unseen)[:, 0].clamp(0, 1) * config.cap
        rmse = metrics(found, validation.rul.clamp(max=config.cap), cap=config.cap)["rmse"]
        curve.append(Epoch(len(curve), loss, rmse))
        if progress:
            progress(done, total, rmse)
    if folds:
        shares, plain = torch.empty(len(samples), 3), torch.empty(len(training), 2)
        for inside in deal(samples.lives, folds):
            seen = samples
            if len(training.keys) < FEW and config.regimes == 1:
                others = both.of(both.engine[~inside].unique())
                own = Scaling.fit(others, settings=len(config.settings), regimes=1, age=config.age)
                seen = Samples(both, config, own)
            for fold, _ in epochs(seen, rows[~inside], config, recipe):
                done += 1
                if progress:
                    progress(done, total, curve[-1].rmse)
                if done % recipe.epochs == 0:
                    shares[inside] = predict(fold, seen, rows[inside])
            mine = inside[whole]
            others = training.of(training.engine[~mine].unique())
            plain[mine] = trivial(others, training.age[mine], cap=config.cap)
        shares, judging = shares[whole], training
    else:
        shares, judging = predict(parts.network, unseen), validation
    parts.interval = Interval.fit(shares, judging.rul, life=judging.engine, cap=config.cap, coverage=config.coverage)
    if folds:
        figures |= _figures("folds", shares, plain, parts.interval, training, config)
    if len(held):
        plain, shares = trivial(training, validation.age, cap=config.cap), predict(parts.network, unseen)
        figures |= _figures("validation", shares, plain, parts.interval, validation, config)
    explained = samples.at(torch.randperm(len(samples))[:EXPLAINED])
    parts.network.requires_grad_(False)
    parts.explainer.fit(explained, integrated_gradients(parts.network, explained))
    parts.reference = Reference.fit(training, parts.scaling)
    return RulModel(config, parts, torch.device("cpu")), curve, figures


def shown(known: Lives) -> Lives:
    """What a network is trained on: each life, and once more from a random row on. Streams often begin in the middle of a life."""
    return joined(known, known.known_late())


def points(curve: list[Epoch]) -> list[tuple[str, float, int]]:
    """The points of a curve as metrics: name, value and epoch."""
    return [
        (figure, value, point.epoch)
        for point in curve
        for figure, value in (("loss", point.loss), ("validation_rmse", point.rmse))
        if not math.isnan(value)
    ]


def epochs(
    samples: Samples, rows: Tensor, config: RulConfig, recipe: Recipe, network: nn.Module | None = None
) -> Iterator[tuple[nn.Module, float]]:
    """Train a network on some rows, by default a new one; yields it in evaluation mode, with the mean loss, after each epoch."""
    network, known = network or fresh(config, samples.lives), samples.lives
    target = known.least.clamp(max=config.cap)
    bound = known.rul.isnan() & (known.least < config.cap)
    size = max(1, round(recipe.share * len(rows)), recipe.steps * recipe.batch)
    optimization = Optimization(
        network,
        steps=recipe.epochs * math.ceil(size / recipe.batch),
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
    )
    for _ in range(recipe.epochs):
        losses = []
        network.train()
        order = torch.cat([torch.randperm(len(rows)) for _ in range(math.ceil(size / len(rows)))])
        for index in rows[order[:size]].split(recipe.batch):
            inputs = samples.at(index)
            steps = inputs.steps
            if recipe.noise:
                steps = steps + recipe.noise * torch.randn_like(steps)
            if recipe.shift:
                steps = steps + recipe.shift * torch.randn_like(steps[:, :1])
            age = inputs.age + recipe.noise * torch.randn_like(inputs.age)
            shown_inputs = inputs._replace(steps=steps * inputs.mask.unsqueeze(-1), age=age)
            if isinstance(network, FusionNetwork):
                shares, change = network.both(shown_inputs)
                extra = network.trajectory_loss(change, inputs, *samples.later(index, network.AHEAD))
            else:
                shares, extra = network(shown_inputs), torch.zeros(())
            loss = extra + rul_loss(
                shares,
                target[index],
                cap=config.cap,
                asymmetry=recipe.asymmetry,
                coverage=config.coverage,
                bound=bound[index],
            )
            losses.append(optimization.step(loss))
        yield network.eval(), sum(losses) / len(losses)


def fresh(config: RulConfig, known: Lives) -> nn.Module:
    """An untrained network for some lives."""
    network = build(config)
    if isinstance(branch := network.get_submodule("head").context, ContextBranch):
        branch.fit(known.slots)
    return network


def predict(network: nn.Module, samples: Samples, rows: Tensor | None = None) -> Tensor:
    """A network's output for some rows, `[rows, 3]`; all rows if None."""
    rows = torch.arange(len(samples)) if rows is None else rows
    with torch.inference_mode():
        return torch.cat([network(samples.at(index)) for index in rows.split(2048)] or [torch.empty(0, 3)])


def _figures(
    kind: str, shares: Tensor, plain: Tensor, interval: Interval, known: Lives, config: RulConfig
) -> dict[str, float]:
    rul, low, high = interval.ends(shares)
    figures = judged(rul, low, high, known.rul, config.cap)
    for name, values in zip(("constant", "age"), plain.unbind(1), strict=True):
        figures[f"rmse_{name}"] = judged(values, low, high, known.rul, config.cap)["rmse"]
    return {f"{kind}_{name}": value for name, value in figures.items()}


def _columns(types: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in types.items())
