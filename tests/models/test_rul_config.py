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
    settings=("load",),
    regimes=2,
    spans=(3.0, 9.5),
    network=NetworkSize(conv=(4, 8), lstm=6, hidden=(5,)),
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
        ("window = 0", "window of 0"),
        ('model = "forest"', "model is 'forest'; expected one of fading, recurrent, fusion"),
        ("spans = [5, 5]", r"spans are \[5, 5\]; expected finite positive numbers that increase"),
        ("spans = [5, inf]", "expected finite positive numbers"),
        ("regimes = 3", "3 regimes of 0 settings; regimes need a setting"),
        ('settings = "load"', r"pumps.toml: expected a list of settings, got 'load'; write settings = \['load'\]"),
        ("coverage = 1.0", "coverage is 1; expected at least 0.5 and less than 1"),
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


def test_one_feature_is_a_list_of_one(tmp_path: Path) -> None:
    path = tmp_path / "cells.toml"
    path.write_text('key = "cell"\norder = "cycle"\nfeatures = "capacity"\n')
    with pytest.raises(
        ValueError, match=r"expected a list of features, got 'capacity'; write features = \['capacity'\]"
    ):
        RulConfig.from_toml(path)


def test_a_table_to_predict_from_has_no_columns_of_the_truth(tmp_path: Path) -> None:
    both = RulConfig(key="pump", order="hour", features=("a",), label="left", failed="broke", age=False)
    assert both.unlabelled == RulConfig(key="pump", order="hour", features=("a",), age=False)
    both.save(tmp_path)
    assert RulConfig.load(tmp_path) == both


def test_the_type_of_each_column_is_said_once() -> None:
    assert CONFIG.types == {"pump": "string", "hour": "int64", "load": "float64", "a": "float64", "b": "float64"}
    assert CONFIG.columns == ("load", "a", "b")
    both = RulConfig(key="pump", order="hour", order_type="float64", features=("hour", "a"))
    assert both.types == {"pump": "int64", "hour": "float64", "a": "float64"}


def test_the_steps_that_a_network_sees_have_names() -> None:
    assert CONFIG.steps == ("3", "9.5", "older")
    assert RulConfig(key="pump", order="hour", features=("a",), model="recurrent", window=3).steps == ("-2", "-1", "0")


def test_a_model_of_an_older_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"key": "unit", "order": "cycle", "features": ["a"], "mean": [1], "scale": [2]}'
    )
    with pytest.raises(ValueError, match=r"config.json: expected a RUL model of this version, .*; train it again"):
        RulConfig.load(tmp_path)
