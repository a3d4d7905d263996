"""A model's settings survive storage, and invalid ones are refused in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.models.rul.config import NetworkSize, RulConfig

CONFIG = RulConfig(
    key="pump",
    key_type="string",
    order="hour",
    features=("a", "b"),
    mean=(0.1, 1e-9),
    scale=(3.0, 1 / 3),
    network=NetworkSize(conv=(4, 8), lstm=6),
)


def test_saved_config_loads_equal(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    assert RulConfig.load(tmp_path) == CONFIG


def test_toml_sets_columns_levels_and_network(tmp_path: Path) -> None:
    path = tmp_path / "pumps.toml"
    path.write_text(
        'key = "pump"\norder = "hour"\nfeatures = ["a", "b"]\ncap = 90\n[network]\nlstm = 7\nhead = [9, 5]\n'
    )
    config = RulConfig.from_toml(path)
    assert (config.features, config.cap, config.network.lstm, config.network.head) == (("a", "b"), 90, 7, (9, 5))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("windw = 30", r"pumps.toml: unknown \['windw'\]"),
        ("[network]\nwidth = 3", r"pumps.toml: unknown \['width'\]"),
        ('key_type = "float"', "key_type is 'float'"),
        ('order_type = "double"', "order_type is 'double'"),
        ("cap = inf", "all finite; got 20, 50, inf"),
        ("cap = nan", "all finite; got 20, 50, nan"),
        ("critical = 60", "got 60, 50, 125"),
        ("mean = [1.0]", "mean has 1 values for 2 features"),
        ("window = 0", "window of 0"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pumps.toml"
    path.write_text(f'key = "pump"\norder = "hour"\nfeatures = ["a", "b"]\n{line}\n')
    with pytest.raises(ValueError, match=message):
        RulConfig.from_toml(path)


def test_a_missing_column_name_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pumps.toml"
    path.write_text('key = "pump"\nfeatures = ["a"]\n')
    with pytest.raises(ValueError, match=r"pumps.toml: \['order'\] missing"):
        RulConfig.from_toml(path)


def test_the_type_of_each_column_is_said_once() -> None:
    assert CONFIG.types == {"pump": "string", "hour": "int64", "a": "float64", "b": "float64"}
    both = RulConfig(key="pump", order="hour", order_type="float64", features=("hour", "a"))
    assert both.types == {"pump": "int64", "hour": "float64", "a": "float64"}
