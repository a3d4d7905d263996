"""A lake in a folder of any name: queries read what a shard commits. A name that Delta can't open is refused at once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from tests.cli.test_query import commit
from tocsin.pipelines.query import query, results
from tocsin.pipelines.runtime.admin.lake_checks import LakeFolder
from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.runtime.lake.compaction import compact
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.runtime.settings import Settings

NAMES = ["plain", "My Lake", "Prüfstand 日本", "100%", "50% of a%zz", "a#b?c", "{a}*;:,'\"<>`$& ", "key=9"]
REFUSED = ["a%20b", "%2F", "100%25", "[a]", "a|b", "a^b", "a\\b", "a\nb"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_read_compacted_and_deleted(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "lake"
    for rul in ([10.0, 20.0], [30.0]):
        commit(folder, "pumps", rul)
    lake = Lake(str(folder))
    late = (pl.col("rul") > 15) & (pl.col("event_date") >= "2026-01-31") & (pl.col("key") == "7")
    assert sorted(results("pumps", lake=lake).filter(late).collect()["rul"]) == [20, 30]
    assert compact(lake, "pumps", "24h").files_after == 1
    DeltaTable(lake.uri("pumps")).delete("rul < 15")
    assert query("SELECT sum(rul) s, max(event_date) d FROM pumps", lake=folder).rows() == [(50, "2026-01-31")]
    assert _names(tmp_path) == [name] and _names(folder) == ["pumps"]


@pytest.mark.parametrize("name", NAMES)
def test_the_check_commits_and_reads_back_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "lake"
    assert LakeFolder(Lake(str(folder))).writable() == f"{folder}: none yet; the first start creates it"
    assert _names(tmp_path) == []
    folder.mkdir(parents=True)
    assert (
        LakeFolder(Lake(str(folder))).writable()
        == f"{folder}: files can be created and deleted, rows written and read back"
    )
    assert _names(folder) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_delta_can_not_open_is_refused_by_the_settings_and_by_the_lake(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"lake\.path .*expected a folder that Delta can open: no \[ \] \^ \| or "
    ) as said:
        Settings.load(overrides={"lake.path": str(tmp_path / name)})
    assert f"; not {tmp_path / name}".replace("\n", " ") in str(said.value).replace("\n", " ")
    (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / name)
    with pytest.raises(ConfigError, match="expected a folder that Delta can open"):
        Lake(str(tmp_path / "link")).uri("pumps")


def test_relative_paths_home_and_file_addresses_mean_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "My Pumps").mkdir()
    monkeypatch.chdir(tmp_path / "My Pumps")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "My Pumps" / "Lake 100%"
    commit(Path("Lake 100%"), "pumps", [10.0])
    frame = Lake("Lake 100%").scan("pumps")
    commit(Path("Lake 100%"), "pumps", [10.0])
    assert frame.collect().height == 2, "what was committed since is seen, too"
    for path in ("Lake 100%", "../My Pumps/Lake 100%", "~/My Pumps/Lake 100%", str(folder), folder.as_uri()):
        lake = Settings.load(overrides={"lake.path": path}).lake.open()
        assert lake.scan("pumps").collect()["rul"].to_list() == [10, 10], path
        assert lake.files.get_file_info("pumps").is_file is False
    assert lake.place("_dead") == str(folder / "_dead") and lake.uri("_dead") == (folder / "_dead").as_uri()


def test_an_address_of_another_machine_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lake\.path .*expected a folder that Delta can open"):
        Settings.load(overrides={"lake.path": "file://server/lake"})
    assert Lake("s3://bucket/lake").folder is None
    assert Lake("s3://bucket/lake").uri("pumps") == Lake("s3://bucket/lake").place("pumps") == "s3://bucket/lake/pumps"


def test_an_empty_table_below_an_equals_sign_has_its_columns(tmp_path: Path) -> None:
    commit(tmp_path / "a=b", "pumps", [])
    assert Lake(str(tmp_path / "a=b")).scan("pumps").collect().height == 0


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
