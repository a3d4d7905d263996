"""Operators need only torch, and importing a package does no work. Contracts in pyproject.toml say who may import whom."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]


def _imports(file: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports, at any depth."""
    package = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: -node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_operators_import_torch_alone() -> None:
    known = set(sys.stdlib_module_names) | {"torch", "tocsin"}
    assert [
        (file.name, name) for file in _files("operators") for name in _imports(file) if name.split(".")[0] not in known
    ] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("tocsin")
    TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()  # or CycleError


@pytest.mark.parametrize("package", ["tocsin", "tocsin.pipelines.runtime", "tocsin.pipelines.runtime.stages"])
def test_a_package_exports_what_its_types_say_and_no_more(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__file__
    typed = [name.rpartition(".")[2] for name in _imports(Path(module.__file__)) if name.startswith(package)]
    assert sorted(module.__all__) == sorted(name for name in typed if name != "exported")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def _python(code: str) -> None:
    """Run code in a fresh interpreter, in the repository's root."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_operators_run_where_nothing_but_torch_is_installed() -> None:
    _python("""
import importlib, importlib.metadata as metadata, pkgutil, re, sys

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

def need(name):
    if plain(name) not in there:
        there.add(plain(name))
        for wanted in requires(name):
            need(re.match(r"[\\w.-]+", wanted)[0])

def requires(name):
    try:
        return [r for r in metadata.requires(name) or () if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        return []

there = set()
need("torch")
owners = metadata.packages_distributions()

class OnlyTorch:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top != "tocsin" and top in owners and not {plain(d) for d in owners[top]} & there:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, OnlyTorch())
from tocsin import operators
for module in pkgutil.walk_packages(operators.__path__, "tocsin.operators."):
    importlib.import_module(module.name)
assert "torch" in sys.modules and not {"pyarrow", "polars", "numpy", "ray"} & set(sys.modules)
""")


@pytest.mark.parametrize(
    "package",
    [
        "tocsin",
        "tocsin.pipelines",
        "tocsin.models",
        "tocsin.operators",
        "tocsin.pipelines.runtime",
        "tocsin.pipelines.runtime.declare.errors",
    ],
)
def test_importing_a_package_does_no_work(package: str) -> None:
    heavy = ["ray", "mlflow", "polars", "pyarrow", "deltalake", "kafka", "safetensors", "torch"]
    if package == "tocsin.operators":
        heavy.remove("torch")
    _python(f"import sys, {package}; found = {{*{heavy!r}}} & set(sys.modules); assert not found, found")


def test_the_runtimes_core_does_not_start_ray_mlflow_or_opentelemetry() -> None:
    heavy = {"ray", "mlflow", "opentelemetry"}
    _python(f"import sys, tocsin.pipelines.runtime.engine.shard; assert not {heavy} & set(sys.modules)")


HEAVY = (
    "av",
    "cv2",
    "deltalake",
    "kafka",
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "pydantic",
    "ray",
    "torch",
)
"""Modules that are slow to import, or that import slow ones."""


def _without(allowed: str, code: str) -> None:
    """Run code in a fresh interpreter. Fails if it imports a heavy module that is not in `allowed`."""
    forbidden = sorted({*HEAVY} - {*allowed.split()})
    _python(f"import sys\n{code}\nfound = {{*{forbidden!r}}} & {{*sys.modules}}\nassert not found, found")


def test_the_commands_help_imports_nothing_heavy() -> None:
    _without(
        "",
        "from typer.testing import CliRunner\nfrom tocsin.pipelines.cli.app import app\nCliRunner().invoke(app, ['--help'])",
    )


def test_settings_are_read_without_arrow() -> None:
    _without("kafka pydantic", "from tocsin.pipelines.cli.invocation import Invocation\nInvocation().settings()")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        # It configures Arrow's memory before Arrow is imported.
        ("tocsin.pipelines.runtime.telemetry.process", ""),
        ("tocsin.pipelines.runtime.control.worker", "kafka ray numpy pydantic"),
        ("tocsin.pipelines.runtime.kafka.reader", "kafka numpy polars pyarrow"),
        ("tocsin.pipelines.runtime.control.supervisor", "deltalake kafka numpy polars pyarrow pydantic ray"),
        ("tocsin.pipelines.cli.deployment", "pydantic"),
        ("tocsin.pipelines.cli.cluster", "pydantic"),
    ],
)
def test_what_every_start_waits_for_imports_no_more_than_it_needs(module: str, allowed: str) -> None:
    _without(allowed, f"import {module}")


def test_weights_that_come_with_tocsin_are_found_without_torch() -> None:
    _without("pydantic", "from tocsin.pipelines.cli.deployment import shipped; assert shipped('rul@champion').is_dir()")


def test_no_domain_is_named_in_commands_and_runtime() -> None:
    """They find domains by registration. `touch` and `occupancy` are also plain words, so they count only as names."""
    named = re.compile(
        r"\b(rul|surprise|irradiance)\b|[\"'`/.](touch|occupancy)[\"'`@/:]|models\.(touch|occupancy|field|damage|tampering)\b"
    )
    files = [*_files("pipelines/cli"), *_files("pipelines/runtime")]
    assert len(files) > 100
    found = [
        f"{file.name}:{n}"
        for file in files
        for n, line in enumerate(file.read_text().splitlines(), 1)
        if named.search(line)
    ]
    assert found == []
