"""A lake in an S3 store: its options reach tables and files alike, and of two commits of a version one wins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import fs

from tests.support.s3 import NEEDS_S3, SECRET, S3Server
from tocsin.pipelines.runtime.admin.lake_checks import LakeFolder
from tocsin.pipelines.runtime.engine.plan import fetch_model, store_model
from tocsin.pipelines.runtime.lake.storage import Lake, read, write

pytestmark = [pytest.mark.slow, NEEDS_S3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    made = S3Server(tmp_path_factory.mktemp("s3") / "data")
    yield made
    made.kill()


@pytest.fixture
def lake(server: S3Server, request: pytest.FixtureRequest) -> Lake:
    return server.lake(request.node.name)


def _all(lake: Lake, folder: str) -> list[str]:
    """The paths of all files in a folder. SeaweedFS also lists folders that are empty now."""
    found = lake.files.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    return [info.path for info in found if info.type == fs.FileType.File]


def test_a_check_writes_reads_and_leaves_nothing(lake: Lake) -> None:
    assert "rows written and read back" in LakeFolder(lake).writable()
    assert _all(lake, "") == []


def test_files_are_written_whole_listed_read_and_deleted(lake: Lake) -> None:
    files, large = lake.files, bytes(range(256)) * (1 << 17)
    write(files, "_state/p/0/1/part", large)
    lake.replace("_orders/p", b"old")
    lake.replace("_orders/p", b"new")
    assert read(files, "_state/p/0/1/part") == large
    assert read(files, "_orders/p") == b"new"
    with files.open_input_file("_state/p/0/1/part") as part:
        part.seek(1 << 20)
        assert part.read(3) == b"\x00\x01\x02"
    names = {info.base_name: info.type for info in files.get_file_info(fs.FileSelector("_state/p/0"))}
    assert names == {"1": fs.FileType.Directory}
    assert files.get_file_info("_state/p/0/1/part").size == len(large)
    assert files.get_file_info("_state/p/0/2").type == fs.FileType.NotFound
    with pytest.raises(FileNotFoundError):
        read(files, "_state/p/0/2")
    files.delete_dir("_state/p")
    assert _all(lake, "_state") == []


def test_a_model_travels_through_the_lake(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    model = fetch_model(lake, store_model(lake, tmp_path, name="pumps", version="3"), "cpu")
    assert {file.name: file.read_bytes() for file in model.folder.iterdir()} == {
        "config.json": b"{}",
        "model.safetensors": b"weights",
    }


def test_of_commits_at_the_same_time_each_is_there_once(lake: Lake) -> None:
    writers, commits = 6, 5
    row = pa.table({"writer": pa.array([0], pa.int64()), "n": pa.array([0], pa.int64())})
    write_deltalake(lake.uri("t"), row.slice(0, 0), storage_options=lake.options)

    def append(writer: int) -> None:
        for n in range(commits):
            table = pa.table({"writer": [writer], "n": [n]})
            write_deltalake(lake.uri("t"), table, mode="append", storage_options=lake.options)

    with ThreadPoolExecutor(writers) as threads:
        list(threads.map(append, range(writers)))
    rows = pl.scan_delta(lake.uri("t"), storage_options=lake.options).collect()
    assert sorted(rows.rows()) == [(writer, n) for writer in range(writers) for n in range(commits)]
    assert DeltaTable(lake.uri("t"), storage_options=lake.options).version() == writers * commits


def test_a_lake_does_not_show_its_secret(lake: Lake) -> None:
    assert SECRET not in repr(lake)
