"""ruff, mypy and import-linter find no fault in the code: `make lint`, in two parts, since mypy reads for a minute."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.tour import environment, make

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "lint-imports --no-cache"])
def test_style_and_imports_are_in_order(command: str) -> None:
    tool, *arguments = command.split()
    done = subprocess.run([BIN / tool, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_lint_finds_nothing() -> None:
    done = subprocess.run(make("lint"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
