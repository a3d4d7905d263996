"""AsyncAPI's own parser, which needs node and npm; a test that has neither is skipped."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = "@asyncapi/parser@3.6.3"
PARSE = """
const { Parser } = require('@asyncapi/parser');
const text = require('fs').readFileSync(process.argv[1], 'utf8');
new Parser().parse(text).then(({ document, diagnostics }) => {
  const faults = diagnostics.filter(d => d.severity === 0).map(d => `${d.path.join('/')}: ${d.message}`);
  const channels = document ? document.channels().all().map(channel => channel.address()) : [];
  console.log(JSON.stringify({ faults, channels }));
});
"""
ERROR_LINES = 3


def parsed(document: Path, cache: Path) -> tuple[list[str], list[str]]:
    """Parse a document. Returns what the parser objects to, and the addresses of the channels.

    Args:
        cache: the folder that the parser is installed in, once.
    """
    if not (node := shutil.which("node")) or not shutil.which("npm"):
        pytest.skip("no node or npm on the path: install Node.js 20 to have AsyncAPI's parser read the document")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(cache)
    command = [node, "-e", PARSE, str(document.absolute())]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["faults"], found["channels"]


def _install(folder: Path) -> None:
    if (folder / "node_modules" / "@asyncapi" / "parser" / "package.json").exists():
        return
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        shutil.rmtree(folder / "node_modules", ignore_errors=True)
        reason = " ".join(done.stderr.splitlines()[-ERROR_LINES:])
        pytest.skip(f"npm can not install {PACKAGE}: {reason}; check the network or the registry")
