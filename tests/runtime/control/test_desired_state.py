"""Orders: stored in the lake, applied by a restarted supervisor, and in part kept by a new deployment."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tocsin.pipelines.runtime.admin.lake_checks import LakeTable
from tocsin.pipelines.runtime.control.desired_state import DesiredState, forget_stopped
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError, Unavailable
from tocsin.pipelines.runtime.engine.plan import Plan
from tocsin.pipelines.runtime.lake.storage import Lake

PLAN = Plan("tests.crash.job:pipeline", {"name": "job", "topic": "t"})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path))


def _soon() -> int:
    return round(time.time() * 1000) + 60_000


def test_a_restarted_supervisor_goes_on_with_what_was_ordered(lake: Lake) -> None:
    orders, until = DesiredState(lake, "d1", PLAN), _soon()
    assert (orders.plan, orders.paused) == (PLAN, False)
    orders.pause(True)
    orders.change(replace(PLAN, options={**PLAN.options, "high": 0.9}))
    orders.silence("7", until)
    again = DesiredState(lake, "d1", PLAN)
    assert again.paused
    assert again.plan == replace(PLAN, options={**PLAN.options, "high": 0.9}, silences={"7": until})


def test_a_new_deployment_keeps_silences_that_last_and_no_other_order(lake: Lake) -> None:
    orders, until = DesiredState(lake, "d1", PLAN), _soon()
    orders.pause(True)
    orders.silence("7", until)
    orders.change(replace(PLAN, options={**PLAN.options, "high": 0.9}))
    again = DesiredState(lake, "d2", PLAN)
    assert (again.plan, again.paused) == (replace(PLAN, silences={"7": until}), False)


def test_a_silence_ends_by_a_time_that_has_passed(lake: Lake) -> None:
    orders = DesiredState(lake, "d1", PLAN)
    orders.silence("7", _soon())
    orders.silence("7", 0)
    assert orders.plan.silences == {}


def test_an_order_to_forget_outlives_supervisor_and_deployment_and_changes_of_the_plan(lake: Lake) -> None:
    orders = DesiredState(lake, "d1", PLAN)
    orders.forget("7")
    orders.change(replace(PLAN, options={**PLAN.options, "high": 0.9}))
    first = orders.plan.forgets
    assert [*first] == ["7"]
    assert DesiredState(lake, "d1", PLAN).plan.forgets == DesiredState(lake, "d2", PLAN).plan.forgets == first
    forget_stopped(lake, PLAN, "8")
    later = DesiredState(lake, "d2", PLAN).plan
    assert later.forgets.keys() == {"7", "8"} and later.forgets["7"] == first["7"]
    assert Plan.load(later.dump()) == later


def test_a_pipeline_that_was_never_given_an_order_forgets_when_it_starts(lake: Lake) -> None:
    forget_stopped(lake, PLAN, "8")
    assert DesiredState(lake, "d1", PLAN).plan.forgets.keys() == {"8"}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"factory": "tests.crash.job:none"}, ConfigError, "expected an importable module:function"),
        ({"options": {**PLAN.options, "rows": 0}}, ConfigError, "expected rows per step to be at least 1, got 0"),
        ({"factory": "tocsin.pipelines.rul:pipeline", "options": {}}, ModelError, "expected a model"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_changes_nothing(
    lake: Lake, change: dict[str, object], error: type[Exception], says: str
) -> None:
    orders = DesiredState(lake, "d1", PLAN)
    orders.pause(True)
    with pytest.raises(error, match=says):
        orders.change(replace(PLAN, **change))  # type: ignore[arg-type]
    assert (orders.plan, DesiredState(lake, "d1", PLAN).plan) == (PLAN, PLAN)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"deployment": "d1", "pl', b"\0" * 80, b"[]", b"{}", b'{"deployment": "d1", "plan": "", "paused": true}'],
)
def test_a_damaged_file_is_refused_in_one_line(lake: Lake, content: bytes) -> None:
    DesiredState(lake, "d1", PLAN).pause(True)
    file = Path(lake.place("_orders", "job.json"))
    file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"expected JSON as Tocsin writes it, got .* restore the file from a copy, or"
    ) as said:
        DesiredState(lake, "d1", PLAN)
    assert str(file) in str(said.value) and "\n" not in str(said.value)
    with pytest.raises(ConfigError, match="restore the file from a copy, or delete it"):
        LakeTable(lake, "job", 1).orders()
    file.unlink()
    assert not DesiredState(lake, "d1", PLAN).paused


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The challenger's version by model name. Each version has files of its own."""
    challengers: dict[str, str] = {}

    def resolve(_: str, model: str) -> tuple[str, str, Path]:
        name, _, version = model.partition("/")
        (folder := tmp_path / version).mkdir(exist_ok=True)
        (folder / "config.json").write_text(version)
        (folder / "model.safetensors").write_text(version)
        return name, version, folder

    where = "tocsin.pipelines.runtime.telemetry.mlflow"
    monkeypatch.setattr(
        f"{where}.version_of", lambda _, name, alias: challengers.get(name, "") if alias == "challenger" else ""
    )
    monkeypatch.setattr(f"{where}.resolve_model", resolve)
    return challengers


def test_a_challenger_is_run_in_shadow_until_it_is_withdrawn_or_promoted(lake: Lake, registry: dict[str, str]) -> None:
    orders, prepared = DesiredState(lake, "d1", PLAN), list[str]()

    def follow() -> bool:
        return orders.follow_challenger("sqlite://", "job@champion", lambda pipeline: prepared.append(pipeline.name))

    assert not follow() and orders.shadow is None
    registry["job"] = "7"
    assert follow() and not follow()
    assert orders.shadow and (orders.shadow.name, orders.shadow.shadow_of) == ("job.shadow-7", "job")
    again = DesiredState(lake, "d1", PLAN)
    assert again.shadow == orders.shadow and DesiredState(lake, "d2", PLAN).shadow is None
    orders.forget("3")
    assert orders.shadow and orders.shadow.forgets == orders.plan.forgets  # its state of the asset goes, too
    registry["job"] = "8"
    assert follow() and prepared == ["job.shadow-7", "job.shadow-8"]
    assert orders.challenger
    orders.plan = replace(orders.plan, model=orders.challenger)  # promoted, the alias not yet withdrawn
    assert follow() and orders.shadow is None
    assert not follow()


def test_a_challenger_that_does_not_fit_or_cannot_be_read_changes_nothing(
    lake: Lake, registry: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    orders = DesiredState(lake, "d1", PLAN)
    registry["job"] = "7"
    assert orders.follow_challenger("sqlite://", "job@champion", lambda _: None)

    def down(*_: str) -> str:
        raise Unavailable("MLflow: expected an answer, got none")

    def unfit(_: object) -> None:
        raise ConfigError("topic in: expected it to exist, got none")

    registry["job"] = "8"
    for _ in range(2):
        assert not orders.follow_challenger("sqlite://", "job@champion", unfit)
    monkeypatch.setattr("tocsin.pipelines.runtime.telemetry.mlflow.version_of", down)
    assert not orders.follow_challenger("sqlite://", "job@champion", lambda _: None)
    assert orders.shadow and orders.shadow.name == "job.shadow-7"
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(": ")[-1] for line in said] == ["expected it to exist, got none", "expected an answer, got none"]
