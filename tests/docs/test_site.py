"""The documentation: it builds without warnings, documents every setting, and shows only examples that a test runs."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
import typer

from tests.conftest import ROOT
from tests.support.tour import TYPED, blocks, make
from tocsin.pipelines.cli.app import app
from tocsin.pipelines.runtime.declare import errors
from tocsin.pipelines.runtime.declare.pipeline import Pipeline
from tocsin.pipelines.runtime.pipeline_section import PipelineSettings
from tocsin.pipelines.runtime.sections import SinkSettings
from tocsin.pipelines.runtime.settings import Settings

DOCS = ROOT / "docs"
FOLLOWED = {
    "own-pipeline.md",
    "security.md",
    "operations.md",
    "upkeep.md",
    "rul.md",
    "sites.md",
    "own-machines.md",
    "evaluate.md",
    "irradiance.md",
    "field.md",
    "occupancy.md",
    "surprise.md",
    "damage.md",
    "pose.md",
    "tampering.md",
    "touch.md",
    "missing-data.md",
    "intervals.md",
    "quality.md",
    "alignment.md",
}
"""Pages whose blocks are all run by a test."""
COMMANDS = {command.name: command for command in typer.main.get_command(app).commands.values()}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, as `make docs` builds it without PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = make("docs", f"SITE={folder}")
    built = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
    return folder


def test_it_is_whole_by_itself(site: Path) -> None:
    pages = {page.stem: page.read_text() for page in site.rglob("*.html")}
    assert pages.keys() == {"404", *(page.stem for page in DOCS.rglob("*.md"))}
    loaded = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//""")
    assert [name for name, page in pages.items() if loaded.search(page)] == []
    assert [
        css for css in site.rglob("*.css") if re.search(r"url\(['\"]?(?:https?:)?//|@import", css.read_text())
    ] == []
    assert not [file for kind in ("py", "pyc", "toml", "md") for file in site.rglob(f"*.{kind}")]
    assert not re.search(r"<!-- (readme|settings|options)", "".join(pages.values()))
    shown = {name: re.findall(r'<img [^>]*src="([^"]+)"', page) for name, page in pages.items()}
    assert "system.svg" in shown["index"]
    named = {(file.parent / picture) for file in site.rglob("*.html") for picture in shown[file.stem]}
    assert [picture for picture in named if not picture.exists()] == []
    assert {
        ElementTree.parse(picture).getroot().tag.rpartition("}")[2] for picture in named if picture.suffix == ".svg"
    } == {"svg"}


def test_code_has_colours_and_formulas_are_drawn(site: Path) -> None:
    page = (site / "own-pipeline.html").read_text()
    assert '<span class="kn">import</span>' in page and re.search(r'<span class="s2?">', page)
    formulas = [page.read_text().count('<svg role="img" aria-label=') for page in (site / "operators").glob("*.html")]
    assert sum(count > 0 for count in formulas) >= 10
    assert "```" not in "".join(file.read_text() for file in site.rglob("*.html"))


def test_the_front_page_leads_to_every_page_that_is_no_operators(site: Path) -> None:
    text = (site / "index.html").read_text()
    article = text[text.index("<article") : text.index("</article>")]
    wanted = {f"{page.stem}.html" for page in DOCS.glob("*.md")} - {"index.html"}
    assert wanted <= {*re.findall(r'href="([\w-]+\.html)', article)}


@pytest.mark.slow
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    for folder in ("tocsin", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "docs" / "upkeep.md").write_text("# Upkeep\n\n[there](nowhere.md)\n")
    built = subprocess.run(make("docs", f"SITE={tmp_path / 'site'}"), cwd=tmp_path, text=True, capture_output=True)
    assert built.returncode and "page does not exist" in built.stderr
    assert not (tmp_path / "site").exists()


def test_the_tour_and_the_guarantee_are_the_readmes(site: Path) -> None:
    assert "tocsin feed rul --from sim" in re.sub(r"<.+?>", "", (site / "tour.html").read_text())
    assert "each one is seen exactly once" in (site / "concepts.html").read_text()
    assert "](docs/index.md)" in (ROOT / "README.md").read_text()


def test_every_setting_is_there_with_meaning_default_and_variable(site: Path) -> None:
    page = (site / "configuration.html").read_text()
    found = {
        html.unescape(name): html.unescape(re.sub(r"<.+?>", "", text)).strip()
        for name, text in re.findall(r"<dt><code>(.+?)</code></dt>\s*<dd>(.+?)</dd>", page, re.DOTALL)
    }
    wanted = defaults()
    assert found.keys() == wanted.keys()
    for name, default in wanted.items():
        meaning, facts = found[name].split("\n", 1)
        assert len(meaning) > 10, name
        variable = "TOCSIN_" + name.replace(".", "__").upper()
        kind = re.fullmatch(
            rf"(.+)\. Default: {re.escape(default)}\. Environment: {re.escape(variable)}", facts.strip()
        )
        assert kind and len(kind[1]) > 3, f"{name}: expected default {default}, got {facts}"


def defaults() -> dict[str, str]:
    """Every setting's default, as a person writes it. Where a pipeline can declare a default, that of a bare pipeline."""
    key = pa.field("key", pa.string(), nullable=False)
    bare = Pipeline(name="x", topic="x", schema=pa.schema([key]), key="key", stages=[], results=pa.schema([]))
    of_pipelines: dict[str, Any] = vars(bare.batch) | vars(bare.commit) | vars(bare)
    found, named = dict[str, str](), {"pipelines": PipelineSettings, "sinks": SinkSettings}
    for section in Settings.model_fields:
        model = named.get(section) or type(getattr(Settings(), section))
        for name, field in model.model_fields.items():
            default = "none, it must be set" if field.is_required() else field.get_default(call_default_factory=True)
            own = model is PipelineSettings and name in of_pipelines.keys() - {"model", "context"}
            shown = of_pipelines[name] if own else default
            text = (
                "none" if shown in (None, "", {}, ()) else str(shown).lower() if isinstance(shown, bool) else str(shown)
            )
            prefix = f"{section}.<name>" if section in named else section
            found[f"{prefix}.{name}"] = f"the pipeline's own, else {text}" if own else text
    levels = {"warning": "none", "critical": "none", "hysteresis": "5", "hold": "1", "jump": "10000", "restart": "none"}
    levels |= {
        "by": "rul",
        "drift": "none",
        "impute": "off",
        "site": "none",
        "period": "none",
        "quality": "false",
        "hold_below": "none",
    }
    return found | {f"pipelines.rul.{name}": default for name, default in levels.items()}


def test_the_settings_file_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((kind, text),) = blocks(DOCS / "configuration.md")
    (tmp_path / "tocsin.toml").write_text(text)
    (tmp_path / "kafka.password").write_text("secret\n")
    settings = Settings.load()
    assert kind == "toml"
    assert settings.kafka.client_options()["sasl_plain_password"] == "secret"
    assert settings.pipeline("rul").options == {"warning": 60.0}


def test_every_example_is_run_by_a_test_or_is_plain_text() -> None:
    for page in DOCS.glob("*.md"):
        kinds = {kind for kind, _ in blocks(page)}
        run = {"toml"} if page.name == "configuration.md" else {*TYPED} if page.name in FOLLOWED else set()
        assert kinds <= run | {"text", "math"}, f"{page.name}: {kinds}"
        prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^(~~~|    [^ ].*\n\n    )", prose, re.MULTILINE), "expected fenced blocks alone"


def test_every_command_that_a_page_names_exists() -> None:
    known = {name for name, command in COMMANDS.items() if not hasattr(command, "commands")}
    known |= {f"{name} {sub}" for name, group in COMMANDS.items() for sub in getattr(group, "commands", ())}
    for page in DOCS.glob("*.md"):
        for words in re.findall(r"(?:^|`)tocsin ([a-z ]+)", page.read_text(), re.MULTILINE):
            one, two = words.split()[0], " ".join(words.split()[:2])
            assert {one, two} & known, f"{page.name}: tocsin {two}"


TEXTS = {
    str(page.relative_to(ROOT)): page.read_text()
    for folder in ("docs", "benchmarks", "operators", "models", "deploy", ".")
    for page in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
}
"""All texts for readers, by file."""


def test_every_target_of_make_that_a_text_names_exists() -> None:
    named = {(file, target) for file, text in TEXTS.items() for target in re.findall(r"(?:^|`)make (\w+)", text, re.M)}
    assert {target for _, target in named} >= {"docs", "kafka", "test", "demo"}
    for file, target in sorted(named):
        done = subprocess.run(make("--dry-run", target), cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, f"{file}: {done.stderr}"


def test_every_module_that_a_text_runs_exists() -> None:
    found = {(file, module) for file, text in TEXTS.items() for module in re.findall(r"python -m ([\w.]+)", text)}
    assert found
    assert [(file, module) for file, module in sorted(found) if importlib.util.find_spec(module) is None] == []


def test_every_refusal_is_explained() -> None:
    page = (DOCS / "operations.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \| `(\w+)` \|", page, re.MULTILINE)
    refusals = {error.__name__ for error in (*errors.Lost.__subclasses__(), errors.StateMismatch)}
    assert refusals <= {name for _, name in rows}
    source = "".join(file.read_text() for file in (ROOT / "pipelines" / "runtime").rglob("*.py"))
    assert [line for line, name in rows if name in refusals and line not in source] == []


def test_the_license_is_apache_and_the_package_says_so() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert (
        "Apache License" in text and "Version 2.0, January 2004" in text and "Copyright 2026 The Tocsin authors" in text
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    assert f"## {project['version']}\n" in (ROOT / "CHANGELOG.md").read_text()
