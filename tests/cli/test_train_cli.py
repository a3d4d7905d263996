"""`tocsin train` and `evaluate` on a user's own files, in this process."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from tests.cli.test_surprise_sheet import tocsin
from tocsin.models.rul import adapt as adapt_module
from tocsin.models.rul.config import NetworkSize, RulConfig
from tocsin.models.rul.model import Parts, RulModel
from tocsin.models.rul.train import RECIPES, Recipe
from tocsin.pipelines.cli.app import app

CONFIG = RulConfig(
    key="pump",
    key_type="string",
    order="hour",
    features=("v1", "v2"),
    spans=(2, 8),
    cap=40,
    warning=20,
    critical=5,
    network=NetworkSize(hidden=(16, 8)),
)


def write_pumps(folder: Path, *, decimal: str = ".", separator: str = ",", shift: float = 0.0) -> Path:
    """Write a CSV file for each of eight pumps. One channel rises until failure, from `shift` on."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for pump in range(8):
        life = 20 + 2 * pump
        values = np.stack([shift + np.arange(life) / life, draw.standard_normal(life)], 1)
        rows = [["pump", "hour", "v1", "v2"]] + [
            [f"P{pump}", str(h), *(f"{v:.4f}" for v in values[h])] for h in range(life)
        ]
        lines = "".join(separator.join(row) + "\n" for row in rows)
        (folder / f"{pump}.csv").write_text(lines.replace(".", decimal))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of an untrained model of `CONFIG`."""
    RulModel(CONFIG, Parts(CONFIG), torch.device("cpu")).save(tmp_path / "model")
    return tmp_path / "model"


class Trainer:
    """Runs `tocsin train rul` on pumps with a short recipe, and reads the registry that it fills."""

    def __init__(self, folder: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.uri, self._patch = folder, tracking_uri, monkeypatch
        write_pumps(folder / "pumps")
        config = 'key="pump"\nkey_type="string"\norder="hour"\nspans=[2,8]\ncap=40\nwarning=20\ncritical=5\n'
        for name, features in (("pumps", ["v1", "v2"]), ("fewer", ["v2"])):
            network = "[network]\nhidden=[16,8]\n"
            (folder / f"{name}.toml").write_text(f"{config}features={features}\n{network}")

    def __call__(self, *more: str, config: str = "pumps", rate: float = 1e-2, enabled: bool = True) -> Result:
        """Train. With `rate` 0, nothing is learned."""
        recipe = Recipe(batch=16, learning_rate=rate, folds=0, validation=0.25)
        self._patch.setitem(RECIPES, "fading", recipe)
        given = ["--set", f"mlflow.tracking_uri={self.uri}", "--set", f"mlflow.enabled={str(enabled).lower()}"]
        data = ["--data", str(self.folder / "pumps"), "--config", str(self.folder / f"{config}.toml")]
        out = ["--name", "pumps", "--out", str(self.folder / "out"), "--epochs", "8" if rate else "1", "--json"]
        return CliRunner().invoke(app, [*given, "train", "rul", *data, *out, *more])

    def champion(self) -> str:
        from tocsin.models.registry import champion

        found = champion("pumps", tracking_uri=self.uri)
        return found[0] if found else ""


@pytest.fixture
def trainer(tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    return Trainer(tmp_path, tracking_uri, monkeypatch)


def test_a_worse_model_is_registered_but_does_not_become_champion_unless_forced(trainer: Trainer) -> None:
    first = trainer()
    assert (first.exit_code, trainer.champion()) == (0, "pumps/1"), first.exception
    worse = trainer(rate=0.0)
    made = json.loads(worse.stdout)
    assert (worse.exit_code, made["version"], trainer.champion()) == (1, "2", "pumps/1")
    why = str(worse.exception)
    assert why.startswith("model pumps/2 does not become pumps@champion: expected a validation RMSE of at most ")
    assert f", 10% from the {json.loads(first.stdout)['seeds'][0]['validation_rmse']:.4g} of pumps/1 on the same" in why
    assert f"got {made['seeds'][0]['validation_rmse']:.4g}; it is registered as pumps/2 without the alias" in why
    assert "\n" not in why and made["refused"] in why
    assert (trainer("--force", rate=0.0).exit_code, trainer.champion()) == (0, "pumps/3")
    assert (trainer("--seed", "7").exit_code, trainer.champion()) == (0, "pumps/4")  # as good as the champion


def test_a_model_without_numbers_never_becomes_champion(trainer: Trainer) -> None:
    for more, enabled in (((), True), (("--force",), True), ((), False)):
        mute = trainer(*more, rate=math.inf, enabled=enabled)
        assert (mute.exit_code, trainer.champion()) == (1, "")
        assert "does not become pumps@champion: expected a finite validation RMSE, got nan; it is" in str(
            mute.exception
        )
    assert json.loads(mute.stdout)["version"] is None


def test_a_champion_that_cannot_be_compared_with_stays(trainer: Trainer) -> None:
    assert trainer(config="fewer").exit_code == 0
    other = trainer()
    assert (other.exit_code, trainer.champion()) == (1, "pumps/1")
    assert (
        "expected to compare it with pumps/1 on the same validation, got ValueError: it reads pump (string), "
        in str(other.exception)
    )
    shutil.rmtree(trainer.folder / "mlruns")
    gone = trainer(config="fewer")
    assert (gone.exit_code, trainer.champion()) == (1, "pumps/1")
    assert "expected to compare it with pumps/1" in str(gone.exception)
    assert (trainer("--force").exit_code, trainer.champion()) == (0, "pumps/4")


def test_a_site_is_adapted_and_registered_with_its_model_and_judged_by_its_adapter(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt_module, "RECIPE", replace(adapt_module.RECIPE, epochs=5, steps=5, batch=64))
    assert trainer().exit_code == 0
    data = str(write_pumps(trainer.folder / "hall", shift=0.7))
    uri, out = f"mlflow.tracking_uri={trainer.uri}", str(trainer.folder / "site")
    adapt = ["--set", uri, "adapt", "rul", "--model", "pumps@champion", "--data", data, "--out", out, "--json"]
    found = CliRunner().invoke(app, [*adapt, "--site", "hall"])
    made = json.loads(found.stdout)
    assert (found.exit_code, made["version"], trainer.champion()) == (0, "2", "pumps/2"), found.exception
    assert made["seeds"][0].keys() >= {"site_rmse", "site_rmse_shared"}
    alone = CliRunner().invoke(app, [*adapt, "--site", "yard", "--runs", "1"])
    assert (alone.exit_code, trainer.champion()) == (1, "pumps/2")
    assert "does not become pumps@champion: expected a RMSE of the site's runs, got none" in str(alone.exception)
    assert CliRunner().invoke(app, [*adapt, "--site", "yard", "--runs", "1", "--force"]).exit_code == 0
    assert json.loads((trainer.folder / "site" / "adapters.json").read_text())["sites"] == ["hall", "yard"]
    judge = ["--set", uri, "evaluate", "rul", "--model", "pumps@champion", "--data", data, "--force", "--json"]
    rmse = [
        json.loads(CliRunner().invoke(app, [*judge, *site]).stdout)["figures"]["rmse"]
        for site in ((), ("--site", "hall"))
    ]
    assert rmse[1] != rmse[0]
    wrong = CliRunner().invoke(app, [*judge, "--site", "shed"])
    assert "site shed: expected one of hall, yard, got another" in str(wrong.exception)


def test_numbers_with_a_comma_are_refused_unless_they_are_meant(tmp_path: Path, model: Path) -> None:
    plain, european = write_pumps(tmp_path / "plain"), write_pumps(tmp_path / "de", decimal=",", separator=";")
    command = ("evaluate", "rul", "--model", str(model), "--force", "--json", "--data")
    figures = [tocsin({}, *command, str(folder)) for folder in (plain, european)]
    assert "0.csv, line 2, column 'v1': expected a finite number, got '0,0000', and" in figures[1].why
    assert "with --decimal-comma a comma is a decimal point" in figures[1].why
    (read,) = tocsin({}, *command, str(european), "--decimal-comma").said
    (plainly,) = figures[0].said
    assert {**read, "data": "", "doubt": ""} == {**plainly, "data": "", "doubt": ""}


def test_a_cell_that_is_no_number_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    pumps = write_pumps(tmp_path / "pumps")
    (pumps / "3.csv").write_text("pump,hour,v1,v2\nP3,1,0.5,1\nP3,2,NaN,1\n")
    (tmp_path / "pumps.toml").write_text(
        'key="pump"\nkey_type="string"\norder="hour"\nfeatures=["v1","v2"]\nwindow=4\n'
    )
    settings = {"mlflow.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    called = tocsin(settings, "train", "rul", "--data", str(pumps), "--config", str(tmp_path / "pumps.toml"))
    assert "3.csv, line 3, column 'v1': expected a finite number, got 'NaN'" in called.why
    assert not (tmp_path / "mlflow.db").exists()


def test_a_challenger_is_registered_beside_the_champion_promoted_and_rolled_back(
    trainer: Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trainer().exit_code == 0
    made = json.loads(trainer("--challenger", rate=0.0).stdout)  # worse than the champion, which a challenger may be
    assert (made["version"], made["alias"], made["refused"], trainer.champion()) == ("2", "challenger", None, "pumps/1")

    def tocsin(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--set", f"mlflow.tracking_uri={trainer.uri}", *arguments])

    promoted = tocsin("promote", "pumps")
    assert promoted.stdout.splitlines()[0] == "pumps/2 is champion; pumps/1 was", promoted.exception
    assert (
        "validation_rmse" in promoted.stdout
        and "see it within 15s and switch at their next checkpoint" in promoted.stderr
    )
    assert trainer.champion() == "pumps/2"
    back = json.loads(tocsin("rollback", "pumps", "--json").stdout)
    assert (back["version"], back["previous"], trainer.champion()) == ("1", "2", "pumps/1")
    assert tocsin("promote", "pumps/2", "--as", "challenger").stdout.splitlines()[0] == "pumps/2 is challenger"
    assert tocsin("rollback", "pumps", "--as", "challenger").stdout == "pumps has no challenger any more; pumps/2 was\n"
    said = tocsin("promote", "pumps")
    assert said.exit_code == 1
    assert str(said.exception) == "model pumps: expected a @challenger, got none; name a version, such as pumps/2"


@pytest.mark.parametrize(
    "words",
    [
        "train pose --data sim --seed -1",
        "train alignment --data sim --steps 0",
        "evaluate surprise --data sim --returns -1",
        "feed pose --from sim --seed -1",
        "feed pose --from sim --rate -1",
        "feed pose --from sim --limit 0",
    ],
)
def test_a_number_that_is_too_small_is_refused_before_anything_is_done(words: str) -> None:
    said = CliRunner().invoke(app, words.split())
    assert said.exit_code == 2 and f"Invalid value for '{words.split()[-2]}'" in said.output


def test_a_rate_is_finite() -> None:
    said = CliRunner().invoke(app, ["feed", "pose", "--from", "sim", "--rate", "inf"])
    assert said.exit_code and "--rate inf: expected a finite number" in str(said.exception)
