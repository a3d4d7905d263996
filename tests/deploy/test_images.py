"""The images: what goes into them, who runs in them, and what their health check asks. They are not built here."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.manifests import locked
from tests.support.ports import free_port
from tocsin.pipelines.runtime.control import health
from tocsin.pipelines.runtime.control.health import Health

FILES = [ROOT / "Dockerfile", ROOT / "deploy" / "mlflow" / "Dockerfile"]
LOCK = (ROOT / "requirements.lock").read_text()


def instructions(file: Path = FILES[0]) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile in order, each as its name and the rest of its line."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def last(name: str, file: Path = FILES[0]) -> str:
    """The last instruction of that name, which is the one that counts."""
    return [rest for found, rest in instructions(file) if found == name][-1]


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a file out: the last pattern that matches it decides."""
    leaves_out = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!")
            names = [path, *map(str, Path(path).parents)]
            if any(fnmatch(n, bare) or (bare.startswith("**/") and fnmatch(Path(n).name, bare[3:])) for n in names):
                leaves_out = not pattern.startswith("!")
    return leaves_out


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_base_is_an_image_of_the_python_that_the_lock_file_is_for(file: Path) -> None:
    bases = [rest.split()[0] for name, rest in instructions(file) if name == "FROM"]
    versions = re.findall(r"^ARG PYTHON=(.+)$", file.read_text(), re.MULTILINE)
    assert bases == ["python:${PYTHON}-slim"] * 2
    assert versions == re.findall(
        r"^PYTHON \?= .*for python in python(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_copied_exists_and_is_not_ignored(file: Path) -> None:
    copied = [rest.split() for name, rest in instructions(file) if name == "COPY"]
    sources = [word for words in copied if not words[0].startswith("--from") for word in words[:-1]]
    assert len(sources) >= 2
    assert [source for source in sources if not (ROOT / source).exists() or ignored(source)] == []


def test_the_package_is_copied_with_every_folder_that_it_links_to() -> None:
    sources = {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    linked = {link.readlink().name for link in (ROOT / "tocsin").iterdir() if link.is_symlink()}
    assert len(linked) == 4
    assert linked | {"tocsin", "pyproject.toml", "README.md", "LICENSE"} <= sources


@pytest.mark.parametrize(
    "path",
    ["deploy/.env", "deploy/kuberay/secrets.env", ".git/config", "mlflow.db", "lake/rul/0.parquet", ".venv/bin/python"],
)
def test_neither_secrets_nor_data_get_into_an_image(path: str) -> None:
    assert ignored(path)
    assert not ignored("deploy/kafka/server.properties")


def test_it_runs_as_a_user_without_rights_under_an_init() -> None:
    user, home = last("USER"), last("WORKDIR")
    created = re.findall(r"useradd --uid (\d+) --create-home --home-dir (\S+)", last("RUN"))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "expected numbers, which Kubernetes can check"
    assert created == [(user.split(":")[0], home)]
    assert json.loads(last("ENTRYPOINT")) == ["tini", "--", "tocsin"]
    assert json.loads(last("CMD")) == ["--help"]


def test_the_cpu_image_leaves_out_only_what_torch_alone_needs() -> None:
    (pattern,) = re.findall(r"gpu='(.+?)'", FILES[0].read_text())
    names = {re.split("==", line)[0] for line in LOCK.splitlines()}
    left_out = {line.split("==")[0] for line in LOCK.splitlines() if re.match(pattern, line)}
    needed_by: dict[str, set[str]] = {name: set() for name in left_out}
    for name in names - left_out:
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in required:
            wanted = re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
            if wanted in needed_by and "extra ==" not in line:
                needed_by[wanted].add(name)
    assert {"torch", "triton", "nvidia-cublas", "cuda-toolkit"} <= left_out
    assert all(name == "torch" or name.startswith(("nvidia", "cuda", "triton")) for name in left_out)
    assert {name: users for name, users in needed_by.items() if users and name != "torch"} == {}


def test_a_cpu_image_without_an_index_is_refused_with_what_to_pass(tmp_path: Path) -> None:
    script = next(rest for name, rest in instructions() if name == "RUN" and "DEVICE" in rest)
    (tmp_path / "requirements.lock").write_text(LOCK)
    environment = {"PATH": os.environ["PATH"], "DEVICE": "cpu"}
    tried = subprocess.run(["sh", "-c", script], env=environment, cwd=tmp_path, text=True, capture_output=True)
    assert tried.returncode
    assert "--build-arg TORCH_INDEX=ADDRESS, or --build-arg DEVICE=cuda" in tried.stderr
    assert (tmp_path / "torch.txt").read_text() == f"torch=={locked('torch')}\n"


def test_mlflow_is_of_the_version_in_the_lock_file() -> None:
    asked = (ROOT / "deploy" / "mlflow" / "requirements.txt").read_text()
    assert re.search(r"^mlflow$", asked, re.MULTILINE) and locked("mlflow")
    assert "--constraints requirements.lock" in FILES[1].read_text()
    unpinned = [line for line in asked.splitlines() if not re.search(r"^#|==", line)]
    assert [name for name in unpinned if not re.search(rf"^{name}==", LOCK, re.MULTILINE)] == []


def checked(port: int | None) -> int:
    """The exit status of the image's health check, with the endpoint's port in the environment."""
    program, *arguments = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    environment = {"PATH": os.environ["PATH"]} | ({} if port is None else {"TOCSIN_HEALTH__PORT": str(port)})
    assert program == "python"
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True).returncode


def test_the_health_check_passes_while_the_supervisor_lives_and_fails_when_its_loop_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    supervisor = Health("rul", "127.0.0.1", port)
    try:
        assert checked(port) == 0
        monkeypatch.setattr(health, "LIVE_S", -1.0)
        assert checked(port) != 0
    finally:
        supervisor.close()


def test_the_health_check_fails_without_a_supervisor_and_passes_where_there_is_no_endpoint() -> None:
    assert checked(free_port()) != 0
    assert checked(None) == checked(0) == 0
