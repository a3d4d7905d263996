"""Small files: replaced whole or not at all, and refused in one line if damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tocsin.models import files
from tocsin.models.alignment import model as alignment
from tocsin.models.damage import model as damage
from tocsin.models.field import model as field
from tocsin.models.irradiance import model as irradiance
from tocsin.models.occupancy import model as occupancy
from tocsin.models.pose import model as pose
from tocsin.models.quality import model as quality
from tocsin.models.rul import model as rul
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.tampering import model as tampering
from tocsin.models.touch.config import TouchConfig
from tocsin.pipelines.runtime.lake.storage import Lake, aside

ROOT = Path(__file__).parents[2]


def _by_models(file: Path, content: bytes) -> None:
    files.write({file: content, file.with_name("beside"): b"beside"})


def _by_the_lake(file: Path, content: bytes) -> None:
    Lake(str(file.parent)).replace(file.name, content)


@pytest.mark.parametrize("write", [_by_models, _by_the_lake])
def test_a_full_disk_leaves_the_file_as_it_was(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.json", b"old")
    there = sorted(tmp_path.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / "a.json", b"new and longer")
    assert (tmp_path / "a.json").read_bytes() == b"old" and sorted(tmp_path.iterdir()) == there
    write(tmp_path / "a.json", b"new and longer")
    assert (tmp_path / "a.json").read_bytes() == b"new and longer" and sorted(tmp_path.iterdir()) == there


def test_a_kill_before_the_content_is_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"old")
    killed = f"""
import os, signal
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
from tocsin.pipelines.runtime.lake.storage import Lake
Lake({str(tmp_path)!r}).replace("a.json", b"new")
"""
    assert subprocess.run([sys.executable, "-c", killed], cwd=ROOT, check=False).returncode == -9
    assert (tmp_path / "a.json").read_bytes() == b"old"


def test_a_file_that_grows_for_long_has_its_name_when_it_is_whole_and_after_an_error_never(tmp_path: Path) -> None:
    with aside(tmp_path / "a") as out:
        out.write(b"old")
        assert not (tmp_path / "a").exists()
    (tmp_path / "link").symlink_to("a")
    with contextlib.suppress(KeyboardInterrupt), aside(tmp_path / "link") as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link").read_bytes() == b"old"
    (tmp_path / "link").unlink()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def _rul(folder: Path) -> Any:
    return rul.load(folder, "cpu")


def _occupancy(folder: Path) -> Any:
    return occupancy.load(folder, "cpu")


def _irradiance(folder: Path) -> Any:
    return irradiance.load(folder, "cpu")


def _quality(folder: Path) -> Any:
    return quality.load(folder, "cpu")


def _damage(folder: Path) -> Any:
    return damage.load(folder, "cpu")


def _tampering(folder: Path) -> Any:
    return tampering.load(folder, "cpu")


def _pose(folder: Path) -> Any:
    return pose.load(folder, "cpu")


def _field(folder: Path) -> Any:
    return field.load(folder, "cpu")


def _alignment(folder: Path) -> Any:
    return alignment.load(folder, "cpu")


@pytest.mark.parametrize(
    ("shipped", "load"),
    [
        (rul.FD001, _rul),
        (occupancy.OFFICES, _occupancy),
        (irradiance.SITES, _irradiance),
        (quality.PLANTS, _quality),
        (field.HALLS, _field),
        (damage.SHIPPED, _damage),
        (alignment.SHIPPED, _alignment),
        (pose.SHIPPED, _pose),
        (tampering.SHIPPED, _tampering),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("left", [0, 100])
def test_a_model_cut_short_is_refused_in_one_line(
    shipped: Path, load: Callable[[Path], Any], file: str, left: int, tmp_path: Path
) -> None:
    load(shipped).save(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:left])
    with pytest.raises(ValueError, match="train the model again, or restore the file from a copy") as refused:
        load(tmp_path)
    assert str(tmp_path / file) in str(refused.value) and f"got {left} bytes" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config",
    [
        SurpriseConfig,
        damage.DamageConfig,
        TouchConfig,
        irradiance.IrradianceConfig,
        quality.QualityConfig,
        field.FieldConfig,
        alignment.AlignmentConfig,
        pose.PoseConfig,
        tampering.TamperingConfig,
        occupancy.OccupancyConfig,
        rul.RulConfig,
    ],
)
@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"[1]", b'{"a": '])
def test_a_damaged_config_is_refused_in_one_line(config: Any, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object as training writes it, got \d+ bytes"):
        config.load(tmp_path)


def test_no_other_file_is_written_over_in_place() -> None:
    new = {
        "pipelines/runtime/telemetry/failpoints.py",  # a marker, in tests only
        "pipelines/runtime/engine/plan.py",  # downloads into a new folder
        "models/registry.py",  # a temporary folder that MLflow uploads
    }
    found = {
        str(file.relative_to(ROOT))
        for folder in ("models", "pipelines")
        for file in (ROOT / folder).rglob("*.py")
        if any(way in file.read_text() for way in (".write_text(", ".write_bytes(", "save_file(", "json.dump("))
    }
    assert found <= new
