"""The page on missing data: its settings make pipelines, its commands train imputers, its example prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT
from tests.docs.test_rul import write
from tests.support.lakes import land
from tests.support.tour import Tour, blocks
from tocsin.models.imputer.model import load
from tocsin.models.occupancy.data import PROPERTIES
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.data import CMAPSS_COLUMNS
from tocsin.models.rul.model import FD001
from tocsin.models.rul.simulation.fleet import run_to_failure
from tocsin.pipelines import occupancy, rul
from tocsin.pipelines.parts.imputation import Method
from tocsin.pipelines.runtime import Model, replay
from tocsin.pipelines.runtime.settings import Settings

PAGE = ROOT / "docs" / "missing-data.md"


def test_the_settings_of_the_page_make_pipelines_and_its_table_has_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, text),) = [block for block in blocks(PAGE) if block[0] == "toml"]
    (tmp_path / "tocsin.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    options = {name: Settings.load().pipeline(name).options for name in ("rul", "occupancy")}
    assert "filled" in rul.pipeline(options["rul"], Model(FD001, "fd001", "cpu")).results.names
    assert "filled" in occupancy.pipeline(options["occupancy"], Model(OFFICES, "offices", "cpu")).results.names
    assert re.findall(r'^\| `"(\w+)"`', PAGE.read_text(), re.MULTILINE) == [*Method.__args__]  # type: ignore[attr-defined]


def test_the_example_prints_what_the_page_says(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "")
    (example,) = [text for _, text in blocks(PAGE) if text.startswith("# try_impute.py")]
    (tmp_path / "try_impute.py").write_text(example)
    (promised,) = [text for kind, text in blocks(PAGE) if kind == "text"]
    assert tour("python try_impute.py") == promised


def test_the_query_of_the_page_finds_what_was_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rul.pipeline({"impute": "last"}, Model(FD001, "fd001", "cpu"))
    gone = pl.when(pl.col("cycle") == 5).then(None).otherwise(pl.col("s11")).alias("s11")
    table = run_to_failure(engines=2, seed=1).filter(pl.col("cycle") < 9).with_columns(gone).sort("cycle", "unit")
    land(tmp_path / "lake", made, *replay(made, table.select(CMAPSS_COLUMNS).to_arrow()))
    monkeypatch.chdir(tmp_path)
    (text,) = [text for kind, text in blocks(PAGE) if kind == "python" and "results(" in text]
    *lines, one, two = text.strip().splitlines()
    exec("\n".join([*lines, f"found = [{one.split('  #')[0]}, {two.split('  #')[0]}]"]), scope := dict[str, object]())
    rows, each = (frame.lazy().collect() for frame in scope["found"])  # type: ignore[attr-defined]
    assert rows["cycle"].to_list() == [5, 5] and each["filled"].to_list() == [1 / 8, 1 / 8]


@pytest.mark.slow
def test_every_command_of_the_page_trains_an_imputer(tmp_path: Path) -> None:
    tour = Tour(tmp_path, "127.0.0.1:1")
    commands = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
    (tmp_path / "cmapss").mkdir()
    write(tmp_path / "cmapss" / "train_FD001.txt", run_to_failure(engines=15, seed=1))
    assert "imputer: error" in tour(f"{commands[0]} --epochs 2 --imputer-steps 20")
    assert load(tmp_path / "trained" / "rul", "cpu").config.columns[:2] == ("setting1", "setting2")
    assert "imputer: error" in tour(
        f"{commands[1].replace('--data rooms', '--data sim')} --steps 20 --imputer-steps 20"
    )
    assert load(tmp_path / "trained" / "occupancy", "cpu").config.columns == PROPERTIES
