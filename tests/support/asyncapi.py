"""AsyncAPI's own parser, which needs node and npm; a test that has neither is skipped."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PACKAGE, BUNDLE = "@asyncapi/parser@3.6.3", "package/browser/index.js"
"""The package, and the file in it that holds the parser with all that it depends on, so that nothing else is installed."""
PARSE = """
globalThis.window = globalThis.self = globalThis;
const [bundle, file] = process.argv.slice(1);
new (require(bundle))().parse(require('fs').readFileSync(file, 'utf8')).then(({ document, diagnostics }) => {
  const faults = diagnostics.filter(d => d.severity <= 1).map(d => `${d.path.join('/')}: ${d.message}`);
  const channels = document ? document.channels().all().map(channel => channel.address()) : [];
  console.log(JSON.stringify({ faults, channels }));
});
"""


def parsed(document: Path, cache: Path) -> tuple[list[str], list[str]]:
    """Parse a document. Returns the parser's errors and warnings, and the addresses of the channels.

    Args:
        cache: the folder that the parser is kept in.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        pytest.skip("no node or npm on the path: install Node.js 20 to have AsyncAPI's parser read the document")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bundle = _bundle(npm, cache)
    command = [node, "-e", PARSE, str(bundle), str(document.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["faults"], found["channels"]


def _bundle(npm: str, folder: Path) -> Path:
    """The parser's file, fetched if it is not there yet."""
    if not (bundle := folder / PACKAGE.rpartition("@")[2] / "index.js").exists():
        command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode:
            reason = " ".join(done.stderr.split())[-300:]
            pytest.skip(f"npm can not fetch {PACKAGE}: {reason}; check the network or the registry")
        with tarfile.open(folder / done.stdout.split()[-1]) as archive:
            file = archive.extractfile(BUNDLE)
            assert file
            bundle.parent.mkdir(exist_ok=True)
            bundle.write_bytes(file.read())
    return bundle
