"""The distribution installs one import name and works beside any other packages."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(*command: str | Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and of the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    _run("make", "dist", f"DIST={folder}")
    return folder


def test_the_wheel_has_one_import_name_and_its_weights(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files if ".dist-info" not in name} == {"tocsin"}
    for file in (
        "py.typed",
        "operators/gated.py",
        "models/rul/weights/fd001/model.safetensors",
        "deploy/kafka/pom.xml",
    ):
        assert f"tocsin/{file}" in files
    assert any(name.endswith("licenses/LICENSE") for name in files)
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym()]


def test_it_works_beside_packages_called_models_and_pipelines(built: Path, tmp_path: Path) -> None:
    """Install the wheel into its own environment. Dependencies are read from this one, which saves minutes."""
    _run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    _run(Path(sys.executable).with_name("uv"), "pip", "install", "--no-deps", "--python", python, *built.glob("*.whl"))
    for name in ("models", "operators", "pipelines", "deploy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True")
    code = """
import models, operators, pipelines, deploy
assert models.MINE and operators.MINE and pipelines.MINE and deploy.MINE
import tocsin
from tocsin.models.rul.model import FD001
from tocsin.pipelines.rul import pipeline
from tocsin.pipelines.runtime.engine.plan import Plan, current
assert (FD001 / "config.json").exists()
assert current("pipelines.rul:pipeline") == "tocsin.pipelines.rul:pipeline"
print(tocsin.__file__)
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found = _run(python, "-c", code, cwd=tmp_path, env=env | {"PYTHONPATH": sysconfig.get_path("purelib")})
    assert Path(found.strip()).is_relative_to(tmp_path / "venv")
