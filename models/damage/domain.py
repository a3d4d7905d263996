"""Damage for the commands `train`, `evaluate` and `feed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tocsin.models.domain import SIM, Domain, Evaluation, Feed, Option, Shot, Trained, Training, WithWrongLabels, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tocsin.models.attempts import Attempt
    from tocsin.models.damage.lessons import Lessons
    from tocsin.models.damage.model import DamageModel
    from tocsin.models.damage.pictures import Labelled
    from tocsin.models.damage.train import Recipe
    from tocsin.models.damage.trunk import Trunk
    from tocsin.models.gate import Candidate
    from tocsin.models.vision.appearance import Appearance

RATE = 2.0
"""Frames per second for feeding."""
TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1, 2, 3
"""Of the simulated pictures to train on, to validate on, and to test on."""
VALIDATION, TEST = 300, 200
"""Numbers of simulated pictures."""
USUAL = 40
"""Simulated pictures that tell what is usual."""


@dataclass(frozen=True)
class Damage(Domain):
    """Pictures of walls in folders named by what they show, or simulated ones."""

    def train(
        self,
        run: Training,
        *,
        steps: Annotated[int | None, Option("Training steps.", least=1)] = None,
        drawn: Annotated[int | None, Option("Simulated pictures, with --data sim.", least=1)] = None,
        robust: WithWrongLabels = False,
    ) -> Trained:
        """Train on folders of pictures and on simulated ones; the last fifth of each folder is for validation.

        Raises:
            ValueError: there are no pictures.
        """
        from tocsin.models.attempts import Fitted, each_seed, keep
        from tocsin.models.damage.config import DamageConfig
        from tocsin.models.damage.model import DamageModel
        from tocsin.models.damage.train import Recipe, Report, fit
        from tocsin.models.damage.trunk import Trunk
        from tocsin.models.trained import placed
        from tocsin.models.wrong_labels.labels import Robust

        place, recipe = run.place("damage"), Recipe(robust=Robust() if robust else None)
        if steps is not None:
            recipe = replace(recipe, steps=steps)
        if drawn is not None:
            recipe = replace(recipe, drawn=drawn)
        trunk = Trunk(placed("auto"))
        folders = _folders(run)
        lessons, weights, unseen = _lessons(run, folders, recipe, trunk)
        usual = _appearance(folders)

        def one(seed: int, report: Report) -> Fitted[DamageModel]:
            config = DamageConfig(appearance=usual)
            network = fit(lessons, weights, config, recipe, seed=seed, report=report)
            model = DamageModel(config, network, trunk)
            return Fitted(model, _figures(model, unseen), by="macro_f1")

        def line(figures: dict[str, float]) -> str:
            return f": macro-F1 {figures['macro_f1']:.3f} on validation pictures"

        _, attempts = each_seed(run, one, steps=recipe.steps, line=line)
        return keep(
            run,
            attempts,
            domain="damage",
            place=place,
            candidate=lambda seed: _candidate(attempts[seed], place[1], unseen),
            params=lambda model: {**asdict(model.config.network), "robust": robust},
        )

    def evaluate(
        self,
        folder: Path,
        version: str,
        data: str,
        *,
        budget: Annotated[
            float | None, Option("Share of a large picture's patches to look at closely [the model's].")
        ] = None,
    ) -> Evaluation:
        """Judge the pictures in folders named by what they show, see `tocsin.models.damage.pictures`, or simulated ones.

        Returns:
            Figures as of `tocsin.models.damage.evaluate.figures`, and `parameters`; those of each class; beside them a rule of
            thumb, how dark the darkest lines are.

        Raises:
            ValueError: the budget is no share.
        """
        import numpy as np

        from tocsin.models.damage.evaluate import figures, lines, parts
        from tocsin.models.damage.model import load
        from tocsin.models.ranking import auroc

        if budget is not None and not 0 <= budget <= 1:
            raise ValueError(f"--budget: expected a share from 0 to 1, got {budget}")
        model, found, kinds, dark, outside = load(folder), [], [], [], 0
        pictures, others = _labelled(data)
        for picture, kind in pictures:
            finding = model(picture, budget=budget)
            found.append(finding.classes)
            kinds.append(kind)
            dark.append(lines(picture))
            outside += _outside(model, picture)
        probabilities, truth = np.stack(found), np.array(kinds)
        level = model.config.level
        by_class = parts(probabilities, truth, level)
        share = 1 - outside / len(kinds) if model.usual else None
        return Evaluation(
            {**figures(probabilities, truth, level=level), "parameters": model.parameters},
            {"classes": by_class},
            baselines={"dark lines": {"auroc": auroc(np.array(dark), truth > 0)}},
            counted={"pictures": len(kinds), "damaged": int((truth > 0).sum())},
            left_out={"pictures in folders that name no class": others},
            in_domain=share,
            lines=[
                f"{name}: {of['pictures']:.0f} pictures, {shown(of['damaged'], 2)} taken for damaged, "
                f"{shown(of['recall'], 2)} for what they are"
                for name, of in by_class.items()
            ],
            doubt=_doubt(share),
        )

    def feed(self, source: str, *, seed: int, rate: float | None, model: Path | None) -> Feed:
        """Feed a folder of pictures, a video, a camera's stream, or a simulated camera at a wall on which a crack grows."""
        from tocsin.models.damage.simulation.watch import Watch
        from tocsin.models.vision.video import read

        rate = rate or RATE
        frames = iter(Watch(seed)) if source == SIM else read(source, rate=rate, size=None)
        return Feed(shots=map(Shot, frames), rate=rate, live="://" in source)


def _labelled(data: str) -> tuple[Iterator[tuple[NDArray[np.uint8], int]], int]:
    """Pictures and their classes, and how many have none."""
    import numpy as np

    from tocsin.models.damage.lessons import drawn
    from tocsin.models.damage.pictures import labelled

    if data == SIM:
        rng = np.random.default_rng(TEST_SEED)
        return ((picture, kind) for picture, kind, _ in (drawn(rng) for _ in range(TEST))), 0
    found, others = labelled(Path(data))
    return ((one.read(), one.number) for one in found), others


def _folders(run: Training) -> list[list[Labelled]]:
    from tocsin.models.damage.pictures import labelled

    return [labelled(Path(folder))[0] for folder in run.data if folder != SIM]


def _lessons(
    run: Training, folders: Sequence[Sequence[Labelled]], recipe: Recipe, trunk: Trunk
) -> tuple[list[Lessons], list[float], list[Lessons]]:
    """Pictures to train on, the weight of each source, and those to validate on."""
    import numpy as np

    from tocsin.models.damage.lessons import Collected, augmented, drawn, fitted
    from tocsin.models.damage.pictures import held_back

    halves = [held_back(list(pictures)) for pictures in folders]
    for folder, (first, _) in zip((folder for folder in run.data if folder != SIM), halves, strict=True):
        if not first:
            raise ValueError(
                f"--data {folder}: expected two pictures or more of a class, one to train on and one to validate on, got one"
            )
    task = run.progress.add_task("looking", total=None)

    def told() -> None:
        run.progress.advance(task)

    rng, weights = np.random.default_rng(TRAIN_SEED), list[float]()
    collected, unseen = Collected(trunk, told), Collected(trunk, told)
    for source, (first, last) in enumerate(halves):
        counts = np.bincount([picture.number for picture in first], minlength=4)
        copies = min(recipe.copies, max(1, recipe.most // max(len(first), 1)))
        for one in first:
            twice = 2 * counts[one.number] < counts.max()
            image = one.read()
            for number in range(copies * (2 if twice else 1)):
                collected.add(augmented(rng, image), one.number, source=source, copy=number > 0)
        for one in last:
            unseen.add(fitted(one.read()), one.number, source=source)
        weights.append(recipe.real)
    real = [one.read() for first, _ in halves for one in first if one.kind == "intact"]
    if SIM in run.data:
        for _ in range(recipe.drawn):
            picture, kind, mask = drawn(rng, real)
            collected.add(picture, kind, source=len(weights), mask=mask)
        weights.append(1.0)
        other = np.random.default_rng(VALIDATION_SEED)
        for _ in range(min(VALIDATION, recipe.drawn)):
            picture, kind, _ = drawn(other)
            unseen.add(picture, kind, source=len(weights))
    return collected.lessons(), weights, unseen.lessons()


def _appearance(folders: Sequence[Sequence[Labelled]]) -> Appearance:
    """What is usual for pictures of walls, by those to train on and simulated ones."""
    import numpy as np

    from tocsin.models.damage.lessons import drawn
    from tocsin.models.vision.appearance import Appearance, Eye

    eye, rng = Eye(), np.random.default_rng(TRAIN_SEED)
    recordings = [eye.looks(picture.read() for picture in pictures[::4]) for pictures in folders]
    recordings.append(eye.looks(drawn(rng)[0] for _ in range(USUAL)))
    # A wall has no up or down, and drones take crops of any shape.
    return replace(Appearance.fit(recordings), upright=(None, None), aspect=(None, None))


def _outside(model: DamageModel, picture: NDArray[np.uint8]) -> bool:
    """Whether a picture is well outside what is usual."""
    return bool(model.usual and (model.usual.excess(model.usual.measure(picture)) > 0).any())


def _doubt(share: float | None) -> str:
    from tocsin.models.domain import foreign

    shares = {} if share is None else {"all": 1 - share}
    return foreign("damage", "pictures", shares, "light, clean or focus the camera", most=0.5)


def _figures(model: DamageModel, unseen: Sequence[Lessons]) -> dict[str, float]:
    """Figures on validation pictures."""
    import torch.nn.functional as F

    from tocsin.models.damage.evaluate import figures
    from tocsin.models.damage.train import judged_all

    logits, kinds = judged_all(model.network, unseen)
    found = figures(F.softmax(logits, 1).numpy(), kinds.numpy(), level=model.config.level)
    return {"macro_f1": 0.0} | {name: figure for name, figure in found.items() if figure is not None}


def _candidate(attempt: Attempt[DamageModel], folder: Path, unseen: Sequence[Lessons]) -> Candidate:
    """A model that was saved to `folder`, compared with the champion on `unseen`."""
    from tocsin.models.damage.model import load
    from tocsin.models.damage.train import judged_all
    from tocsin.models.gate import Candidate

    def against(other: Path) -> tuple[float, float]:
        return attempt.score, _figures(load(other), unseen)["macro_f1"]

    return Candidate(
        measure="macro-F1 on validation pictures",
        lower=False,
        score=attempt.score,
        outputs=lambda: [judged_all(load(folder).network, [*unseen][:1])[0]],
        against=against,
    )
