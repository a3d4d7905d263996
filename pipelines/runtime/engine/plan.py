"""What a shard runs, by reference. A plan is small enough for every journal mark and snapshot to hold one."""

from __future__ import annotations

import hashlib
import importlib.util
import posixpath
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.errors import ConfigError, ModelError
from tocsin.pipelines.runtime.lake.storage import Lake, read

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.context import Intervals
    from tocsin.pipelines.runtime.declare.pipeline import Pipeline

T = TypeVar("T")
MOVED = {"pipelines.runtime.landing:pipeline": "tocsin.pipelines.runtime.control.alerts_table:pipeline"}
"""Factories that moved in 0.2: old name -> new name."""


@dataclass(frozen=True)
class ModelRef:
    """A reference to a model: its name, its version, and the hash of its files in `<lake>/_models/<sha256>/`."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model's files on this machine, as passed to a pipeline's factory."""

    folder: Path
    version: str
    device: str

    @classmethod
    def required(cls, model: Model | None, pipeline: str) -> Model:
        """The model of a pipeline that can't do without.

        Raises:
            ModelError: there is none.
        """
        if model is None:
            raise ModelError(
                f"pipelines.{pipeline}: expected a model, got none; set model = '{pipeline}@champion' or a folder that training "
                "wrote"
            )
        return model

    def load(self, read: Callable[[Path, str], T], *, training: str) -> T:
        """Load the model by calling `read(folder, device)`.

        Args:
            training: the command that trains such a model, shown in the error.

        Raises:
            ModelError: the files can't be loaded.
        """
        from safetensors import SafetensorError

        try:
            return read(self.folder, self.device)
        except (OSError, ValueError, RuntimeError, SafetensorError) as reason:
            raise ModelError(
                f"model {self.version} in {self.folder}: expected config.json and matching weights, got "
                f"{' '.join(str(reason).split())}; train it again with `{training}`"
            ) from reason


@dataclass(frozen=True)
class Plan:
    """A pipeline's factory, its options and its model.

    Args:
        factory: `module:function`, called as `function(options, model)`; returns a `Pipeline`.
        options: JSON: levels, columns, topic and so on. The factory does not get those of `TUNING`.
        model: None for a pipeline without one.
        device: "auto", "cpu" or "cuda".
        shadow_of: the pipeline that it is a shadow of; "": it is none.
        silences: muted asset -> when the mute ends, ms since the epoch.
        forgets: asset to forget -> when a person ordered it, ms since the epoch.
        context: the file in the lake with the pipeline's context, see `Intervals`; "": nothing is known.
    """

    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model: ModelRef | None = None
    device: str = "auto"
    shadow_of: str = ""
    silences: Mapping[str, int] = field(default_factory=dict)
    forgets: Mapping[str, int] = field(default_factory=dict)
    context: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factory", current(self.factory))

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.options.get("name", self.factory))

    def in_shadow(self, model: ModelRef) -> Plan:
        """The plan of this pipeline's shadow: a second model on the same readings, which stores its rows and sends nothing.

        Each version has a shadow of its own, which keeps its positions.
        """
        options = {**self.options, "name": names.shadow(self.name, model.version)}
        return replace(self, options=options, model=model, shadow_of=self.name, silences={})

    def dump(self) -> str:
        """One line of JSON, equal for equal plans."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS).decode()

    @classmethod
    def load(cls, text: str) -> Plan:
        """Parse what `dump` wrote."""
        stored = orjson.loads(text)
        model = ModelRef(**stored["model"]) if stored["model"] else None
        later = {
            n: stored[n] for n in ("shadow_of", "silences", "forgets", "context") if n in stored
        }  # older plans lack them
        return cls(stored["factory"], stored["options"], model, stored["device"], **later)

    def build(self, lake: Lake) -> Pipeline:
        """Build the pipeline, with its model loaded.

        Raises:
            ConfigError: the factory does not exist, refuses the options, or fails.
            ModelError: the model's files are not in the lake.
        """
        from tocsin.pipelines.runtime.declare.context import Intervals
        from tocsin.pipelines.runtime.declare.pipeline import TUNING, tuned

        module, _, name = self.factory.partition(":")
        try:
            factory = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError, SyntaxError, NameError) as reason:
            raise ConfigError(
                f"pipeline {self.factory}: expected an importable module:function, got {reason}"
            ) from reason
        factory_options = {name: value for name, value in self.options.items() if name not in TUNING}
        model = self.model and fetch_model(lake, self.model, self.device)
        try:
            pipeline = factory(factory_options, model)
        except (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError) as reason:
            message = " ".join(str(reason).split())
            raise ConfigError(
                f"pipeline {self.factory}: expected the factory to accept options {factory_options}, got {type(reason).__name__}: "
                f"{message}; correct the options or the factory"
            ) from reason
        known = fetch_context(lake, self.context) if self.context else Intervals()
        pipeline = tuned(pipeline, self.options)
        pipeline = replace(pipeline, silences=self.silences, forgets=self.forgets, intervals=known)
        return shadowed(pipeline, self.shadow_of) if self.shadow_of else pipeline


def shadowed(pipeline: Pipeline, of: str) -> Pipeline:
    """The pipeline as the shadow of another: without rules, its rows in the other's table with `in_shadow` true.

    It keeps no files, such as frames: the other does.
    """
    import pyarrow as pa

    from tocsin.pipelines.runtime.stages.in_shadow import InShadow

    results = pipeline.results.append(pa.field(names.IN_SHADOW, pa.bool_()))
    stages = [*pipeline.stages, InShadow([*pipeline.files])]
    rows = replace(pipeline, into=pipeline.into or of, results=results, stages=stages, shadow_of=of)
    return replace(rows, rules=(), truth=None, drift=None, files={})


def declared(plan: Plan, lake: Lake) -> Pipeline:
    """Build a plan's pipeline, and check its name.

    Raises:
        ConfigError, ModelError: the plan can't be built, or its pipeline has another name.
    """
    pipeline = plan.build(lake)
    if pipeline.name != plan.name:
        raise ConfigError(
            f"pipeline {plan.name}: expected its factory to use options['name'], got a pipeline {pipeline.name}; "
            f"correct {plan.factory}"
        )
    return pipeline


def current(factory: str) -> str:
    """A factory's current name.

    Snapshots, journals and settings from before 0.2 name Tocsin's own factories `pipelines.<name>:pipeline`.
    """
    if factory in MOVED:
        return MOVED[factory]
    module = factory.partition(":")[0]
    if module.startswith("pipelines.") and not _exists(module) and _exists(f"tocsin.{module}"):
        return f"tocsin.{factory}"
    return factory


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # its package does not exist
        return False


def store_model(lake: Lake, folder: Path, *, name: str, version: str) -> ModelRef:
    """Copy a model's files into the lake under their hash, so that workers need no registry."""
    files = sorted(p for p in folder.glob("*") if p.suffix in (".safetensors", ".json") and not p.name.startswith("."))
    contents = {p.name: p.read_bytes() for p in files}
    if not any(n.endswith(".safetensors") for n in contents):
        raise ModelError(
            f"model {name} in {folder}: expected config.json and *.safetensors, got {sorted(contents) or 'nothing'}"
        )
    digest = hashlib.sha256()
    for file, content in contents.items():
        digest.update(file.encode() + b"\0" + hashlib.sha256(content).digest())
    ref, store = ModelRef(name, version, digest.hexdigest()), lake.files
    for file, content in contents.items():
        path = posixpath.join(names.model_folder(ref.sha256), file)
        if store.get_file_info(path).size != len(content):  # missing, or truncated by a crash
            lake.replace(path, content)
    return ref


def store_context(lake: Lake, pipeline: str, intervals: Intervals) -> str:
    """Write a pipeline's context into the lake, in a file named after its content. Returns its path."""
    content = intervals.dump()
    path = posixpath.join(names.context_folder(pipeline), f"{hashlib.sha256(content).hexdigest()}.arrow")
    if lake.files.get_file_info(path).size != len(content):  # missing, or truncated by a crash
        lake.replace(path, content)
    return path


def fetch_context(lake: Lake, path: str) -> Intervals:
    """Read a pipeline's context from the lake.

    Raises:
        ConfigError: the file is gone.
    """
    from tocsin.pipelines.runtime.declare.context import Intervals

    try:
        return Intervals.load(read(lake.files, path))
    except FileNotFoundError as reason:
        raise ConfigError(
            f"context {lake.place(path)}: expected the file that a checkpoint names, got none; restore it from a copy"
        ) from reason


def fetch_model(lake: Lake, ref: ModelRef, device: str) -> Model:
    """Fetch a model's files to this machine."""
    options = tuple(lake.options.items())
    folder = _model_folder(lake.root, options, lake.store, ref.sha256, ref.name)
    return Model(folder, f"{ref.name}/{ref.version}", device)


@cache
def _model_folder(root: str, options: tuple[tuple[str, str], ...], store: str, sha256: str, name: str) -> Path:
    from pyarrow import fs

    lake = Lake(root, dict(options), store)
    files = lake.files
    infos = files.get_file_info(fs.FileSelector(names.model_folder(sha256), allow_not_found=True))
    if not infos:
        raise ModelError(
            f"model {name}: expected its files in {root}/{names.model_folder(sha256)}, got none; deploy it again"
        )
    if (lake_folder := lake.folder) is not None:
        return lake_folder / names.model_folder(sha256)
    folder = Path(tempfile.mkdtemp(prefix="tocsin-model-"))
    for info in infos:
        (folder / info.base_name).write_bytes(read(files, info.path))
    return folder
