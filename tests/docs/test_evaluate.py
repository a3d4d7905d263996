"""The page on evaluating a model: its commands run, its tables are what they print."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.test_rul import tour as tour
from tests.support.tour import Tour, blocks
from tocsin.models.domain import Report

PAGE = ROOT / "docs" / "evaluate.md"
DATA = Path(os.environ.get("TOCSIN_DATA", ROOT.parent / "shared" / "data")) / "cmapss"
COMMANDS = [line for kind, text in blocks(PAGE) if kind == "sh" for line in text.splitlines()]
SHOWN = next(text for kind, text in blocks(PAGE) if kind == "text")


def test_its_commands_print_lines_and_keys_like_those_of_the_page(tour: Tour) -> None:
    printed, report = tour(COMMANDS[0]), json.loads(tour(COMMANDS[1]))
    assert [line.split()[0] for line in printed.splitlines()] == [line.split()[0] for line in SHOWN.splitlines()]
    assert printed.splitlines()[0].split() == SHOWN.splitlines()[0].split()
    keys = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert keys == list(report) == list(Report.__annotations__)


@pytest.mark.skipif(not (DATA / "RUL_FD001.txt").exists(), reason=f"needs C-MAPSS in {DATA}")
def test_its_figures_are_those_of_the_published_engines(tour: Tour) -> None:
    printed = tour(COMMANDS[0].replace("cmapss", str(DATA)))
    assert printed == SHOWN
