"""Plans define what a shard runs; the lake stores models by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tocsin.models.rul.model import FD001
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.engine.plan import ModelRef, Plan, fetch_model, store_model
from tocsin.pipelines.runtime.lake.storage import Lake

JOB = "tests.crash.job:pipeline"
RUL = "tocsin.pipelines.rul:pipeline"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model's files and one other file."""
    (tmp_path / "model").mkdir()
    for name, content in {"config.json": "{}", "model.safetensors": "weights", "notes.txt": "no"}.items():
        (tmp_path / "model" / name).write_text(content)
    return tmp_path / "model"


@pytest.mark.parametrize(
    "plan",
    [
        Plan(JOB),
        Plan(RUL, {"warning": 30.5, "topic": "t", "list": [1, "ü"]}, ModelRef("rul", "3", "ab" * 32), "cpu"),
    ],
)
def test_a_plan_is_one_line_and_comes_back_equal(plan: Plan) -> None:
    assert "\n" not in plan.dump()
    assert Plan.load(plan.dump()) == plan
    assert Plan.load(plan.dump()).dump() == plan.dump()


def test_equal_plans_are_equal_lines() -> None:
    assert Plan(JOB, {"a": 1, "b": 2}).dump() == Plan(JOB, {"b": 2, "a": 1}).dump()


def test_it_builds_the_pipeline_that_its_factory_makes_of_its_options(lake: Lake) -> None:
    assert Plan(JOB, {"name": "job", "topic": "readings", "rows": 7}).build(lake).batch.rows == 7


def test_a_factory_that_fails_is_a_wrong_setting_and_no_reason_to_start_again(lake: Lake) -> None:
    with pytest.raises(ConfigError, match=r"expected the factory to accept options .*, got KeyError: 'topic'; correct"):
        Plan(JOB, {"name": "job"}).build(lake)


def test_a_model_is_stored_by_its_content_and_found_again(lake: Lake, folder: Path) -> None:
    ref = store_model(lake, folder, name="rul", version="3")
    for hidden in ("._config.json", "._model.safetensors"):  # macOS writes them on foreign disks
        (folder / hidden).write_bytes(b"\0\5\x16\7")
    assert store_model(lake, folder, name="other", version="4").sha256 == ref.sha256
    model = fetch_model(lake, ref, "cpu")
    assert model.version == "rul/3"
    assert {p.name: p.read_text() for p in model.folder.iterdir()} == {
        "config.json": "{}",
        "model.safetensors": "weights",
    }
    (folder / "model.safetensors").write_text("other weights")
    assert store_model(lake, folder, name="rul", version="4").sha256 != ref.sha256


def test_a_copy_that_a_crash_cut_short_is_made_whole(lake: Lake, folder: Path) -> None:
    ref = store_model(lake, folder, name="rul", version="3")
    stored = fetch_model(lake, ref, "cpu").folder / "model.safetensors"
    stored.write_text("wei")
    store_model(lake, folder, name="rul", version="3")
    assert stored.read_text() == "weights"


def test_the_shipped_model_runs_from_the_lake(lake: Lake) -> None:
    built = Plan(RUL, {}, store_model(lake, FD001, name="rul", version="1"), "cpu").build(lake)
    assert (built.model_version, built.key) == ("rul/1", "unit")


@pytest.mark.parametrize(
    "factory", ["no.such:thing", "tests.crash.job:nothing", "tests.crash.job", ":pipeline", "", ".rul:pipeline"]
)
def test_a_factory_that_is_not_there_is_one_line(lake: Lake, factory: str) -> None:
    with pytest.raises(ConfigError, match="expected an importable module:function, got ") as refused:
        Plan(factory).build(lake)
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_in_the_lake_is_one_line(lake: Lake) -> None:
    with pytest.raises(ModelError, match=r"model rul: expected its files in .* got none; deploy it again"):
        Plan(RUL, {}, ModelRef("rul", "3", "ab" * 32)).build(lake)


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_a_model_is_one_line(lake: Lake, tmp_path: Path, make: bool) -> None:
    folder: Any = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(
        ModelError, match=r"model rul in .*nothing: expected config.json and \*.safetensors, got nothing"
    ):
        store_model(lake, folder, name="rul", version="3")
