"""Settings are searched with rooms left out, reproducibly. Each trial is a run, and the best settings are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tocsin.models.champion import Registrar
from tocsin.models.domain import Training
from tocsin.models.occupancy import domain as occupancy
from tocsin.models.occupancy.baselines import BASELINES
from tocsin.models.occupancy.config import OccupancyConfig
from tocsin.models.occupancy.model import load
from tocsin.models.occupancy.search import (
    BASELINE_SPACES,
    Trial,
    apply_settings,
    best,
    folds,
    network_space,
    search,
    search_baseline,
)
from tocsin.models.occupancy.train import Recipe, Room, fit, score
from tocsin.models.registry import searching
from tocsin.pipelines import occupancy as pipeline
from tocsin.pipelines.cli.console import progress

CONFIG = OccupancyConfig(features=("level", "past"), window=10, threshold=0.5)
RECIPE = Recipe(steps=15, batch=32)


def room(seed: int, minutes: int = 300, found: tuple[str, ...] = CONFIG.features) -> Room:
    """A room occupied every other half hour, when its first feature is a little higher."""
    generator = torch.Generator().manual_seed(seed)
    occupied = (torch.arange(minutes) // 30 % 2).float()
    features = torch.randn(minutes, len(found), generator=generator)
    features[:, 0] += occupied
    return Room(features, occupied)


def test_each_source_is_left_out_once_and_never_trained_on() -> None:
    a, b, c = ([room(i)] for i in range(3))
    assert [([*others], left_out) for others, left_out in folds([a, b, c])] == [([b, c], a), ([a, c], b), ([a, b], c)]


def test_of_a_single_source_its_rooms_are_left_out_in_groups() -> None:
    rooms = [room(i, 20) for i in range(6)]
    turns = folds([rooms])
    assert len(turns) == 4
    assert sorted(id(r) for _, left_out in turns for r in left_out) == sorted(map(id, rooms))
    for (others,), left_out in turns:
        assert len(others) + len(left_out) == 6 and not {*map(id, others)} & {*map(id, left_out)}
    assert folds([rooms[:1]]) == []


def test_a_room_alone_cannot_be_searched_by() -> None:
    with pytest.raises(ValueError, match="got one: none can be held out; add another room or source"):
        search([[room(0)]], CONFIG, RECIPE, trials=1)


def test_the_first_trial_is_what_was_given_and_its_value_the_mean_over_what_was_left_out() -> None:
    sources, told = [[room(0)], [room(1)]], list[Trial]()
    trials = search(sources, CONFIG, RECIPE, trials=2, seed=3, callback=told.append)
    assert told == trials
    assert apply_settings(CONFIG, RECIPE, trials[0].settings) == (CONFIG, RECIPE)
    left_out = [score(fit([sources[1 - i]], CONFIG, RECIPE, seed=3), sources[i])["f1"] for i in (0, 1)]
    assert trials[0].f1 == pytest.approx(sum(left_out) / 2)
    size, recipe = apply_settings(CONFIG, RECIPE, trials[1].settings)
    assert (size, recipe) != (CONFIG, RECIPE)
    assert (size.window, size.threshold, recipe.steps, recipe.batch) == (10, 0.5, 15, 32)
    assert fit(sources[:1], size, recipe).parameters > 0


def test_the_same_seed_searches_the_same_way_and_another_does_not() -> None:
    sources = [[room(0)], [room(1)]]
    one, again, other = (search(sources, CONFIG, RECIPE, trials=3, seed=seed) for seed in (5, 5, 6))
    assert one == again
    assert one[1].settings != other[1].settings


def test_patches_are_searched_only_where_they_divide_the_window() -> None:
    assert network_space(OccupancyConfig())["patch"].choices == (3, 5, 6, 10)
    assert network_space(CONFIG)["patch"].choices == (5, 10)


def test_of_equal_trials_the_first_is_best() -> None:
    assert best([Trial(0, {}, 0.5), Trial(1, {}, 0.7), Trial(2, {}, 0.7)]).number == 1


@pytest.mark.parametrize("name", BASELINE_SPACES)
def test_a_baseline_is_searched_from_its_own_settings_on(name: str) -> None:
    sources = [[room(i, 1200, OccupancyConfig().features)] for i in range(2)]
    one, again = (search_baseline(name, sources, OccupancyConfig(), trials=2, seed=1) for _ in range(2))
    assert one == again
    assert one[0].settings == {setting: BASELINES[name][setting] for setting in BASELINE_SPACES[name]}
    assert one[1].settings != one[0].settings
    assert all(0 < trial.f1 <= 1 for trial in one)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a short recipe and a simulated building of two rooms and one day."""
    monkeypatch.setattr("tocsin.models.occupancy.train.Recipe", lambda: RECIPE)
    whole = occupancy.recorded
    monkeypatch.setattr(occupancy, "recorded", lambda source, **more: whole(source, **more | {"rooms": 2, "days": 1}))


def trained(folder: Path, *, enabled: bool = True) -> dict[str, Any]:
    registrar = Registrar(f"sqlite:///{folder}/mlflow.db" if enabled else None)
    run = Training(["sim"], "rooms", folder / "model", [4, 5], registrar, progress())
    return pipeline.domain.train(run, steps=15, search=3).facts()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_trials_are_runs_under_one_and_the_best_ones_settings_are_trained_and_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    # So few steps do not separate the trials. Here, the widest network scores best.
    monkeypatch.setattr("tocsin.models.occupancy.search.score", lambda model, _: {"f1": model.config.network.lstm / 64})
    made = trained(tmp_path)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'rooms'")
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    named = {run.info.run_name: run for run in runs}
    assert list(named) == ["search rooms", "trial 0", "trial 1", "trial 2", "train rooms", "seed 4", "seed 5"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    training = named["train rooms"].info.run_id
    assert {named[f"seed {n}"].data.tags["mlflow.parentRunId"] for n in (4, 5)} == {training}
    parent = named["search rooms"].info.run_id
    for trial in made["search"]:
        run = named[f"trial {trial['number']}"]
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.params == {name: str(value) for name, value in trial["settings"].items()}
        assert run.data.metrics == {"left_out_f1": trial["f1"]}
    history = client.get_metric_history(parent, "left_out_f1")
    assert [(m.step, m.value) for m in history] == [(trial["number"], trial["f1"]) for trial in made["search"]]

    widest = max(made["search"], key=lambda trial: trial["settings"]["lstm"])
    assert widest["number"] > 0
    champion = client.get_model_version_by_alias("rooms", "champion")
    params = client.get_run(champion.run_id).data.params
    assert params["search"] == parent and params["seed"] == str(made["seed"])
    assert {name: params[name] for name in widest["settings"]} == {k: str(v) for k, v in widest["settings"].items()}
    stored = load(tmp_path / "model", "cpu")
    assert stored.config == apply_settings(stored.config, RECIPE, widest["settings"])[0]
    assert stored(torch.zeros(2, 60, len(stored.config.features)))["probability"].shape == (2,)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_it_searches_without_mlflow_too(tmp_path: Path) -> None:
    made = trained(tmp_path, enabled=False)
    assert made["version"] is None and not (tmp_path / "mlflow.db").exists()
    assert [trial["number"] for trial in made["search"]] == [0, 1, 2]
    assert {tried["seed"] for tried in made["seeds"]} == {4, 5}
    assert load(tmp_path / "model", "cpu").parameters > 0


def test_a_search_that_breaks_off_is_recorded_as_failed(tmp_path: Path, tracking_uri: str) -> None:
    import mlflow

    uri, parents = tracking_uri, []

    def broken_off() -> None:
        with searching("rooms", {"trials": 9}, tracking_uri=uri, artifact_location=str(tmp_path)) as (parent, tell):
            parents.append(parent)
            tell(0, {"lstm": 8}, {"left_out_f1": 0.5})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    run = mlflow.MlflowClient(uri).get_run(parents[0])
    assert run.info.status == "FAILED"
    assert run.data.params == {"trials": "9"} and run.data.metrics == {"left_out_f1": 0.5}
