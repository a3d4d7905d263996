"""ruff and mypy find no fault in the code: `make lint`."""

import subprocess

from tests.conftest import ROOT
from tests.support.tour import environment, make


def test_lint_finds_nothing() -> None:
    done = subprocess.run(make("lint"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
