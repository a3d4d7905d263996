"""Queries: bounded, ended when they take too long, and of the lake's tables alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ui import scene
from tocsin.pipelines.runtime.declare.errors import ConfigError, Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake
from tocsin.pipelines.ui.data.queries import Queries, only_tables


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queries]:
    folder = tmp_path_factory.mktemp("lake")
    scene.commit(folder, "rul", scene.engine("7", 400))
    queries = Queries(Lake(str(folder)), rows=100, seconds=20)
    yield queries
    queries.close()


def test_an_answer_is_bounded_and_says_so(queries: Queries) -> None:
    frame, has_more = queries.ask("SELECT cycle FROM rul ORDER BY cycle")
    assert (frame["cycle"].to_list(), has_more) == ([*range(100)], True)
    assert queries.ask("SELECT count(*) AS n FROM rul")[0].item() == 400


def test_wrong_sql_is_the_same_line_as_the_commands(queries: Queries) -> None:
    with pytest.raises(ConfigError, match="relation 'rull' was not found; the tables are: rul"):
        queries.ask("SELECT * FROM rull")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM READ_PARQUET ('x')",
        "SELECT * FROM \"read_ipc\"('x')",
        "SELECT * FROM read_json/**/('x')",
        "SELECT * FROM scan_csv('x')",
    ],
)
def test_a_function_that_reads_files_is_refused(sql: str) -> None:
    with pytest.raises(
        ConfigError, match=r"expected only tables of the lake, got .+, which reads files; use `tocsin query`"
    ):
        only_tables(sql)


def test_a_file_is_no_table(queries: Queries, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for name in (f"'{tmp_path}/secret.csv'", f'"{tmp_path}/secret.csv"'):
        with pytest.raises(ConfigError):
            queries.ask(f"SELECT * FROM {name}")


def test_a_long_query_is_ended_and_the_next_one_answers(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    queries.ask("SELECT 1 AS n FROM rul")
    monkeypatch.setattr(queries, "seconds", 0.0)
    with pytest.raises(Unavailable, match="expected an answer within 0 s, got none; ask for less"):
        queries.ask("SELECT sum(a.rul * b.rul * c.rul) FROM rul a CROSS JOIN rul b CROSS JOIN rul c")
    monkeypatch.undo()
    assert queries.ask("SELECT count(*) AS n FROM rul")[0].item() == 400
