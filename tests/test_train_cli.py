"""`tocsin train` and `evaluate` on somebody's own files, in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.rul.config import NetworkSize, RulConfig
from models.rul.model import RulModel, build
from tests.test_surprise_sheet import tocsin

CONFIG = RulConfig(
    key="pump",
    key_type="string",
    order="hour",
    features=("v1", "v2"),
    window=4,
    cap=40,
    warning=20,
    critical=5,
    network=NetworkSize(conv=(4, 4), lstm=4, attention=4, head=(4, 4)),
)


def write_pumps(folder: Path, *, decimal: str = ".", separator: str = ",") -> Path:
    """Eight pumps, of which one channel rises until they fail."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    for pump in range(8):
        life = 20 + 2 * pump
        values = np.stack([np.arange(life) / life, draw.standard_normal(life)], 1)
        rows = [["pump", "hour", "v1", "v2"]] + [
            [f"P{pump}", str(h), *(f"{v:.4f}" for v in values[h])] for h in range(life)
        ]
        lines = "".join(separator.join(row) + "\n" for row in rows)
        (folder / f"{pump}.csv").write_text(lines.replace(".", decimal))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of `CONFIG` that has learned nothing."""
    config = replace(CONFIG, mean=(0.0, 0.0), scale=(1.0, 1.0))
    RulModel(config, build(config), torch.device("cpu")).save(tmp_path / "model")
    return tmp_path / "model"


def test_numbers_with_a_comma_are_refused_unless_they_are_meant(tmp_path: Path, model: Path) -> None:
    plain, european = write_pumps(tmp_path / "plain"), write_pumps(tmp_path / "de", decimal=",", separator=";")
    command = ("evaluate", "rul", "--model", str(model), "--json", "--data")
    figures = [tocsin({}, *command, str(folder)) for folder in (plain, european)]
    assert "0.csv, line 2, column 'v1': expected a finite number, got '0,0000', and" in figures[1].why
    assert "with --decimal-comma a comma is a decimal point" in figures[1].why
    (read,) = tocsin({}, *command, str(european), "--decimal-comma").said
    assert {**read, "data": ""} == {**figures[0].said[0], "data": ""}


def test_a_cell_that_is_no_number_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    pumps = write_pumps(tmp_path / "pumps")
    (pumps / "3.csv").write_text("pump,hour,v1,v2\nP3,1,0.5,1\nP3,2,NaN,1\n")
    (tmp_path / "pumps.toml").write_text(
        'key="pump"\nkey_type="string"\norder="hour"\nfeatures=["v1","v2"]\nwindow=4\n'
    )
    settings = {"mlflow.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    called = tocsin(settings, "train", "rul", "--data", str(pumps), "--config", str(tmp_path / "pumps.toml"))
    assert "3.csv, line 3, column 'v1': expected a finite number, got 'NaN'" in called.why
    assert not (tmp_path / "mlflow.db").exists()
