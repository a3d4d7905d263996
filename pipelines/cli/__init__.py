"""The command line, `tocsin`: one file per command. Commands import what they need when they run."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path


def main() -> None:
    """Run a command. An error is one line on stderr and exit status 1; `TOCSIN_DEBUG=1` adds the traceback."""
    from tocsin.pipelines.cli.app import app
    from tocsin.pipelines.cli.console import fail

    sys.path.append(str(Path.cwd()))  # for a user's own pipelines; last, so that nothing in it hides another module
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it on import; else it joins without a token
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # its errors are also raised
    try:
        app(prog_name="tocsin")
    except Exception as reason:
        fail(reason)
        sys.exit(1)
