"""Few lives: two, one, and lives of assets that did not fail. Training gives an honest result or refuses in one line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.progress
import torch

from tocsin.models.champion import Registrar
from tocsin.models.domain import Training
from tocsin.models.rul.baseline import trivial
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives, read_csv_directory
from tocsin.models.rul.domain import Rul
from tocsin.models.rul.evaluate import UNFAILED, evaluate
from tocsin.models.rul.model import load
from tocsin.models.rul.network import rul_loss
from tocsin.models.rul.scaling import Scaling
from tocsin.models.rul.split import deal, hold_out
from tocsin.models.rul.train import RECIPES, Recipe, candidate, read_recipe, train

TOML = """
key = "cell"
key_type = "string"
order = "cycle"
features = ["capacity"]
failed = "failed"
spans = [3, 10]
cap = 40
warning = 20
critical = 5
age = false

[network]
hidden = [16, 8]
"""
RECIPE = Recipe(epochs=6, batch=64, steps=20, learning_rate=1e-2)


def write(folder: Path, **ends: int) -> Path:
    """Cells whose capacity falls from 2 to 1.4 at their end; the recording of one named `on...` stops at half of it."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for name, end in ends.items():
        kept = end // 2 if name.startswith("on") else end
        cycle = 2 * np.arange(1, kept + 1)  # every second cycle is measured
        capacity = 2 - 0.6 * np.arange(1, kept + 1) / end + 0.01 * random.standard_normal(kept)
        failed = int(kept == end)
        rows = [f"{name},{c},{v:.4f},{failed}" for c, v in zip(cycle, capacity, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["cell,cycle,capacity,failed", *rows]))
    (folder.parent / "cells.toml").write_text(TOML)
    return folder


def known(folder: Path, **changes: object) -> Lives:
    config = replace(RulConfig.from_toml(folder.parent / "cells.toml"), **changes)
    return lives(read_csv_directory(folder, config), config)


def request(data: Path, *, tracking: str | None = None, force: bool = False) -> Training:
    progress = rich.progress.Progress(disable=True)
    return Training([str(data)], "cells", data.parent / "out", [0], Registrar(tracking, force), progress)


def test_two_lives_of_one_column_judge_each_other(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=50, b=60)
    outcome = train(data=data, out=tmp_path / "out", config=tmp_path / "cells.toml", recipe=RECIPE)
    figures = outcome.figures
    assert outcome.judges == "folds" and outcome.rmse == figures["folds_rmse"]
    assert not any(name.startswith("validation") for name in figures)
    assert figures["folds_rmse"] < 0.75 * figures["folds_rmse_constant"]
    assert math.isfinite(figures["folds_rmse_age"]) and figures["folds_coverage"] > 0.85
    predicted = load(tmp_path / "out", "cpu").predict(known(data))
    assert all(bool(value.isfinite().all()) for value in predicted.values())


@pytest.mark.parametrize("kind", ["recurrent", "fusion"])
def test_a_model_without_folds_holds_out_one_of_two(tmp_path: Path, kind: str) -> None:
    data = write(tmp_path / "cells", a=30, b=40)
    config = replace(RulConfig.from_toml(tmp_path / "cells.toml"), model=kind, window=5)
    outcome = train(data=data, config=config, recipe=replace(RECIPES[kind], epochs=1, steps=2))
    assert outcome.judges == "validation"
    assert outcome.validation.table["cell"].n_unique() == 1


def test_few_rows_are_drawn_until_an_epoch_has_its_steps(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=50, b=60)
    few, many = (
        train(data=data, config=tmp_path / "cells.toml", recipe=replace(RECIPE, steps=steps)).curve[-1].loss
        for steps in (1, 40)
    )
    assert many < few / 2


def test_a_single_life_is_trained_on_but_nothing_judges_it(tmp_path: Path, tracking_uri: str) -> None:
    data = write(tmp_path / "cells", a=50, on=60)
    trained = Rul().train(request(data, tracking=tracking_uri), config=tmp_path / "cells.toml", epochs=2)
    assert trained.registered.refused.startswith("expected a validation RMSE, got none")
    assert trained.lines == [
        "seed 0: nothing judges it, since a single key failed: evaluate it on another one that did"
    ]
    forced = Rul().train(request(data, tracking=tracking_uri, force=True), config=tmp_path / "cells.toml", epochs=2)
    assert (forced.registered.version, forced.registered.refused) == ("2", "")
    predicted = load(tmp_path / "out", "cpu").predict(known(data))
    assert (predicted["rul_low"] == 0).all() and (predicted["rul_high"] == 40).all()


def test_without_a_failure_training_is_refused_in_one_line(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", on1=50, on2=60)
    with pytest.raises(ValueError, match=r"^expected keys that failed, got 2 that did not; .* add a recording of one$"):
        train(data=data, config=tmp_path / "cells.toml", recipe=RECIPE)


def test_models_of_few_lives_are_not_compared_on_what_they_were_trained_on(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=50, b=60)
    outcome = train(data=data, out=tmp_path / "out", config=tmp_path / "cells.toml", recipe=RECIPE)
    new = candidate(outcome, tmp_path / "out")
    assert new.score == outcome.rmse and list(new.outputs())
    with pytest.raises(ValueError, match=r"no key is held out to compare them by, .*; evaluate both on other lives"):
        new.against(tmp_path / "out")


def test_an_asset_that_did_not_fail_has_a_bound_in_place_of_a_label(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=3, on=4)
    both = known(data)
    assert both.failed.tolist() == [True, False]
    assert both.rul[:3].tolist() == [4, 2, 0] and both.rul[3:].isnan().all()
    assert both.least.tolist() == [4, 2, 0, 2, 0]
    late = both.known_late()
    assert torch.equal(late.rul.isnan(), late.engine == 1)
    assert known(data, failed=None).rul.tolist() == [4, 2, 0, 2, 0]


def test_one_row_that_says_failed_is_enough_and_other_words_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=3)
    (data / "a.csv").write_text("cell,cycle,capacity,failed\na,1,2,no\na,2,1.4,yes\nb,1,2,false\n")
    assert known(data).failed.tolist() == [True, False]
    (data / "a.csv").write_text("cell,cycle,capacity,failed\na,1,2,maybe\n")
    with pytest.raises(ValueError, match="line 2, column 'failed': expected 0, 1, true or false, got 'maybe'"):
        known(data)
    (data / "a.csv").write_text("cell,cycle,capacity,failed\na,1,2,\n")
    with pytest.raises(ValueError, match="line 2, column 'failed': expected a value, got an empty cell"):
        known(data)


def test_a_bound_costs_nothing_above_it_and_teaches_the_interval_nothing() -> None:
    target = torch.tensor([20.0, 20.0])
    shares = torch.tensor([[0.75, 0.1, 0.1], [0.25, 0.1, 0.1]], requires_grad=True)  # 30 and 10 of 40
    bound = torch.tensor([True, True])
    rul_loss(shares, target, cap=40, asymmetry=0.3, coverage=0.9, bound=bound).backward()
    assert shares.grad is not None
    above, below = shares.grad
    assert above.tolist() == [0, 0, 0]
    assert below[0] < 0 and below[1:].tolist() == [0, 0]


def test_survivors_keep_a_healthy_asset_from_being_judged_worn(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=60, b=66, on1=160, on2=180)
    told = train(data=data, config=tmp_path / "cells.toml", recipe=RECIPE)
    config = replace(RulConfig.from_toml(tmp_path / "cells.toml"), failed=None)
    untold = train(data=data, config=config, recipe=RECIPE)
    survived = known(data).of(torch.tensor([2, 3]))
    last = survived.last
    thought, mistaken = (each.model.predict(survived)["rul"][last].mean() for each in (told, untold))
    assert thought > mistaken + 4
    scores = evaluate(data=data, model=told.model, csv=True)
    assert scores.counted == {"engines": 4, "rows": 60 + 66, "survivors": 2}
    assert scores.left_out[UNFAILED] == 170
    assert scores.figures["false_warnings"] == 0
    raised = replace(told.model.config, warning=40.0)  # each prediction below the cap is a false one
    told.model.config = raised
    false = evaluate(data=data, model=told.model, csv=True).figures["false_warnings"]
    assert false == pytest.approx(130 / 170), "the last 20 rows of each may have had less left"
    assert scores.figures["rmse"] < 10


def test_a_life_is_judged_by_a_fold_whose_scaling_has_not_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "cells", a=50, b=60)
    seen: list[set[str]] = []
    fitted = Scaling.fit

    def spy(given: Lives, *, settings: int, regimes: int, age: bool) -> Scaling:
        seen.append(set(given.keys))
        return fitted(given, settings=settings, regimes=regimes, age=age)

    monkeypatch.setattr(Scaling, "fit", spy)
    train(data=data, config=tmp_path / "cells.toml", recipe=replace(RECIPE, epochs=1))
    assert seen[0] == {"a", "b"}
    assert sorted(map(sorted, seen[1:])) == [["a"], ["b"]]


def test_folds_share_out_the_failures(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=5, b=5, **{f"on{i}": 6 for i in range(6)})
    both = known(data)
    for seed in range(5):
        torch.manual_seed(seed)
        parts = list(deal(both, 2))
        assert [int(both.failed[both.engine[part].unique()].sum()) for part in parts] == [1, 1]
        assert (parts[0] ^ parts[1]).all()


def test_few_failures_are_never_held_out_where_folds_judge(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", **{f"c{i}": 4 for i in range(7)}, **{f"on{i}": 6 for i in range(10)})
    few = known(data)
    assert len(hold_out(few, 0.2, folds=5)) == 0
    held = hold_out(few, 0.3, folds=5)
    assert [int(few.failed[held].sum()), int((~few.failed[held]).sum())] == [2, 3]
    assert int(few.failed[hold_out(few, 0.2, folds=0)].sum()) == 1


def test_without_age_neither_age_nor_the_number_of_rows_says_anything(tmp_path: Path) -> None:
    both = known(write(tmp_path / "cells", a=50, b=60))
    scaling = Scaling.fit(both, settings=0, regimes=1, age=False)
    assert scaling.age(both.age * 1e6, both.place + 1).eq(0).all()
    assert scaling.is_known(both.rows, both.age * 1e6).all()
    assert not Scaling.fit(both, settings=0, regimes=1).is_known(both.rows, both.age * 1e6).any()


def test_what_needs_no_sensors_is_the_mean_and_the_mean_at_an_age(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=3, b=5, on=8)  # failed at 6 and 10
    constant, by_age = trivial(known(data), torch.tensor([2.0, 7.0, 11.0]), cap=40).T
    assert constant.tolist() == pytest.approx([(4 + 2 + 0 + 8 + 6 + 4 + 2 + 0) / 8] * 3)
    assert by_age.tolist() == [6, 3, 0]
    assert trivial(known(data), torch.tensor([2.0]), cap=5)[0, 1] == 4.5  # 4 and 8, of which 5 count
    assert trivial(known(data).of(torch.tensor([2])), torch.tensor([2.0]), cap=5).isnan().all()


def test_a_table_of_the_config_changes_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "cells.toml"
    file.write_text(TOML + "\n[training]\nshift = 0\nepochs = 7\n")
    assert read_recipe(file) == replace(RECIPES["fading"], shift=0, epochs=7)
    assert read_recipe(file, "recurrent") == replace(RECIPES["recurrent"], shift=0, epochs=7)
    assert RulConfig.from_toml(file).key == "cell"
    file.write_text(TOML + "\n[training]\nshfit = 0\n")
    with pytest.raises(
        ValueError, match=r"cells.toml: unknown \['shfit'\] in \[training\]; expected any of \['epochs'"
    ):
        read_recipe(file)


def test_a_table_without_the_truth_is_judged(tmp_path: Path) -> None:
    data = write(tmp_path / "cells", a=50, b=60)
    model = train(data=data, config=tmp_path / "cells.toml", recipe=replace(RECIPE, epochs=1)).model
    table = read_csv_directory(data, model.config)
    assert model.judge(table.drop("failed"))["rul"].equals(model.judge(table)["rul"])
    feed = Rul().feed(str(data), seed=0, rate=None, model=saved(model, tmp_path))
    assert next(iter(feed.tables)).columns == ["cell", "cycle", "capacity"]


def saved(model: object, folder: Path) -> Path:
    model.save(folder / "saved")  # type: ignore[attr-defined]
    return folder / "saved"
