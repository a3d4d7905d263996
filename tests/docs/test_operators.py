"""The operators' pages: each operator has a page with a picture, and its example prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from xml.etree import ElementTree

import grimp
import pytest

from docs import pictures
from tests.conftest import ROOT
from tests.support.tour import blocks

PAGES = ROOT / "docs" / "operators"
OPERATORS = sorted({file.stem for file in (ROOT / "operators").glob("*.py")} - {"__init__", "shapes"})


@pytest.mark.parametrize("place", ["docs/operators/{}.md", "tests/operators/test_{}.py", "benchmarks/cases/{}.py"])
def test_each_operator_has_a_page_tests_and_a_benchmark(place: str) -> None:
    assert [name for name in OPERATORS if not (ROOT / place.format(name)).exists()] == []


@pytest.mark.parametrize("name", OPERATORS)
def test_the_page_says_what_it_is_for_what_it_costs_and_when_not_to_use_it(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    assert re.match(rf"# .+\n\n`tocsin\.operators\.{name}`: ", page)
    wanted = ["**For** ", "| | shape |", "**Cost**", "**Not** ", f"]({name}.svg)", "Source: "]
    assert [part for part in wanted if part not in page] == []


@pytest.mark.parametrize("name", OPERATORS)
def test_its_example_prints_what_the_page_says(name: str) -> None:
    examples = [text for kind, text in blocks(PAGES / f"{name}.md") if kind == "python"]
    assert examples
    for text in examples:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(text, f"{name}.md", "exec"), {"__name__": "example"})
        promised = re.findall(r"^ *print\(.+\)  # (.+)$", text, re.MULTILINE)
        assert promised and said.getvalue().splitlines() == promised


def test_each_operator_has_a_picture_and_it_is_drawn_alike_each_time() -> None:
    assert {*OPERATORS} <= {*pictures.names()}  # test_site.py draws them
    assert pictures.svg("gated") == pictures.svg("gated")
    assert ElementTree.fromstring(pictures.svg("gated")).tag.endswith("svg")


def test_the_table_says_which_pipelines_use_each_operator() -> None:
    graph = grimp.build_graph("tocsin")
    graph.remove_module("tocsin.models.attempts")  # it saves imputers, for all
    pipelines = [
        page.stem
        for page in (ROOT / "docs").glob("*.md")
        if (ROOT / "pipelines" / page.name).with_suffix(".py").exists()
    ]
    for name in OPERATORS:
        users = {
            each for each in pipelines if graph.chain_exists(f"tocsin.pipelines.{each}", f"tocsin.operators.{name}")
        }
        row = re.search(
            rf"^\| \[{name}\]\([^)]+\) \| ([^|]+) \| [^|]+ \|$",
            (ROOT / "docs" / "operators.md").read_text(),
            re.MULTILINE,
        )
        assert row, name
        assert {*re.findall(r"\[(\w+)\]", row[1])} == users, name
