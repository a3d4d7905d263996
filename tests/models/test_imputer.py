"""The imputer: nothing missing is the identity, gaps are filled better than by the last value, files, levels, plain methods."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tocsin.models.imputer.config import CONFIG_FILE, WEIGHTS_FILE, ImputerConfig
from tocsin.models.imputer.gaps import BLOCKS, KINDS, RANDOM, ROWS, Gapped, gaps, opened
from tocsin.models.imputer.levels import LIMIT, Levels
from tocsin.models.imputer.model import Imputer, Parts, load, remove
from tocsin.models.imputer.network import FAR, start
from tocsin.models.imputer.plain import Nearest, interpolated, last_value, window_mean
from tocsin.models.imputer.train import Outcome, Recipe, errors, fit
from tocsin.models.occupancy.model import OFFICES
from tocsin.models.rul.model import FD001

NAN = math.nan
CONFIG = ImputerConfig(columns=("a", "b", "c"), times=8, patch=4, channels=8, heads=2)


def walks(count: int, rows: int = 120) -> list[Tensor]:
    """Series of three sensors: the second follows the first, the third is a level of its own with noise."""
    generator = torch.Generator().manual_seed(count)
    out = []
    for _ in range(count):
        a = torch.randn(rows, generator=generator).cumsum(0)
        noise = torch.randn(rows, 2, generator=generator)
        out.append(torch.stack([a, 3 * a + 0.3 * noise[:, 0], 20 + 2 * noise[:, 1]], dim=1).double())
    return out


def untrained(config: ImputerConfig = CONFIG) -> Imputer:
    """Random weights, also of the last layer, whose zeros would hide what the others do."""
    torch.manual_seed(0)
    parts = Parts(config)
    parts.levels = Levels.fit(torch.cat(walks(4)))
    torch.nn.init.normal_(parts.network.out.weight)
    return Imputer(config, parts, torch.device("cpu"))


@pytest.fixture(scope="module")
def trained() -> Outcome:
    return fit(walks(20), CONFIG, Recipe(steps=250), held=walks(5))


def test_it_beats_the_last_value_at_random_and_in_blocks(trained: Outcome) -> None:
    assert trained.figures["imputer_error"] < 0.9 * trained.figures["imputer_error_last"]
    assert "standard deviations in gaps of held-out keys" in trained.line
    worse = replace(trained, figures={"imputer_error": 0.5, "imputer_error_last": 0.4})
    assert worse.line.endswith("the last value is better here: use impute = 'last'")
    for kind in (RANDOM, BLOCKS):
        own, last = (
            errors(f, walks(5), trained.imputer, kind, share=0.3, length=15) for f in (trained.imputer, last_value)
        )
        assert own < last


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two, other = (fit(walks(3), CONFIG, Recipe(steps=3), seed=seed).imputer for seed in (1, 1, 2))
    windows = torch.randn(2, 8, 3)
    windows[:, -1, 0] = NAN
    given = windows, torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(one(*given), two(*given)) and not torch.equal(one(*given), other(*given))


def test_with_nothing_missing_it_is_the_identity() -> None:
    imputer, windows = untrained(), torch.stack(walks(5, rows=8))
    assert torch.equal(imputer.complete(windows), windows)
    z = imputer.levels.standardise(windows)[0]
    assert torch.equal(imputer(z, z[:, -1], torch.zeros(5, 3)), z[:, -1])


def test_a_whole_window_is_filled_sensors_and_times_and_known_values_stay_bit_by_bit() -> None:
    imputer, windows = untrained(), torch.stack(walks(4, rows=8))
    windows[0, 2:5, 1] = NAN
    windows[1, :, 0] = NAN  # a sensor
    windows[2, 3] = NAN  # a time
    windows[3] = NAN
    filled = imputer.complete(windows)
    assert filled.isfinite().all()
    known = ~windows.isnan()
    assert torch.equal(filled[known], windows[known])


def test_it_reads_every_stride_th_row_of_a_stream_and_the_newest() -> None:
    config = replace(CONFIG, stride=3)
    imputer = untrained(config)
    assert config.rows == 22
    windows = torch.randn(2, 22, 3)
    windows[:, -1, 1] = NAN
    carried, age = windows[:, -2], torch.ones(2, 3)
    found = imputer(windows, carried, age)
    assert torch.equal(found, imputer.at_steps(windows[:, ::3], carried, age))
    windows[:, 1] += 9  # a row that it does not see
    assert torch.equal(found, imputer(windows, carried, age))
    with pytest.raises(ValueError, match=r"windows are \[2, 8, 3\], expected \[B, 22, 3\]"):
        imputer(windows[:, :8], carried, age)
    assert imputer(windows[:0], carried[:0], age[:0]).shape == (0, 3)


def test_a_gap_starts_from_the_nearest_reading() -> None:
    windows = torch.tensor([[[NAN, NAN], [1.0, NAN], [NAN, NAN], [4.0, NAN], [NAN, NAN]]])
    values, known, age = start(windows, torch.tensor([[4.5, 9.0]]), torch.tensor([[1.0, 70.0]]), stride=2)
    assert values.tolist() == [[[1, 1, 1, 4, 4.5], [9] * 5]]
    assert age.tolist() == [[[2, 0, 2, 0, 1], [70] * 5]]
    assert known.tolist() == [[[False, True, False, True, False], [False] * 5]]


def test_it_is_stored_beside_a_model_and_removed_from_there(tmp_path: Path) -> None:
    imputer = untrained()
    imputer.save(tmp_path)
    again, windows = load(tmp_path, "cpu"), torch.stack(walks(3, rows=8))
    windows[:, 5:, 0] = NAN
    assert again.config == CONFIG and torch.equal(again.complete(windows), imputer.complete(windows))
    (tmp_path / CONFIG_FILE).write_text('{"columns": ["a"], "time": 3}')
    with pytest.raises(ValueError, match=r"imputer.json: .*'time'.*; train the imputer again"):
        load(tmp_path)
    remove(tmp_path)
    assert not list(tmp_path.iterdir())
    remove(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"a patch that divides times .* got 3 and 8"):
        ImputerConfig(columns=("a",), times=8, patch=3)


def test_the_number_of_sensors_hardly_changes_the_number_of_weights() -> None:
    few, many = (
        Imputer(c, Parts(c), torch.device("cpu")).parameters
        for c in (ImputerConfig(columns=tuple(map(str, range(n)))) for n in (3, 100))
    )
    assert few < many < 0.11e6 and many - few == 97 * 17


@pytest.mark.parametrize("folder", [FD001, OFFICES])
def test_the_shipped_ones_are_small(folder: Path) -> None:
    imputer = load(folder, "cpu")
    assert imputer.parameters <= 0.11e6
    assert (folder / WEIGHTS_FILE).stat().st_size < 1e5
    windows = torch.full((1, imputer.config.times, len(imputer.config.columns)), NAN, dtype=torch.float64)
    assert imputer.complete(windows).isfinite().all()


def test_levels_tell_the_regime_from_what_is_known() -> None:
    rows, regime = torch.tensor([[0.0, 1.0], [0.0, 3.0], [9.0, 100.0], [9.0, 104.0]]), torch.tensor([0, 0, 1, 1])
    levels = Levels.fit(rows, regime, 2)
    assert levels.regime(torch.tensor([[9.0, NAN], [NAN, 99.0], [NAN, 2.0], [NAN, NAN]])).tolist() == [1, 1, 0, 0]
    z, found = levels.standardise(rows)
    torch.testing.assert_close(levels.restore(z, found), rows.double())
    assert levels.standardise(torch.tensor([[0.0, 1e9]]))[0].abs().max() <= LIMIT
    blank = Levels.fit(torch.tensor([[1.0, NAN], [3.0, NAN]]))
    assert blank.mean.tolist() == [[2.0, 0.0]] and blank.deviation.isfinite().all()


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_gaps_have_the_share_and_the_kind(kind: str, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    missing = gaps(20_000, 3, kind, share=share, length=15, generator=generator)
    assert missing.float().mean().item() == pytest.approx(share, abs=0.04)
    stretches = missing[1:, 0] & ~missing[:-1, 0]
    length = missing[:, 0].sum() / stretches.sum()
    assert length.item() == pytest.approx(15.5 if kind == BLOCKS else 1 / (1 - share), rel=0.2)
    assert missing.any(1).equal(missing.all(1)) is (kind == ROWS)


def test_windows_of_a_series_end_where_it_begins_and_hide_what_is_missing() -> None:
    series = [torch.arange(6.0)[:, None], 10 + torch.arange(4.0)[:, None]]
    missing = [torch.zeros(6, 1, dtype=torch.bool), torch.tensor([0, 1, 1, 0]).bool()[:, None]]
    data = Gapped.of(series, Levels(torch.zeros(1, 1), torch.ones(1, 1)), missing)
    config = ImputerConfig(columns=("a",), times=4, patch=2)
    batch = data.at(torch.tensor([1, 8]), config)
    assert str(batch.windows[..., 0].tolist()) == "[[nan, nan, 0.0, 1.0], [nan, 10.0, nan, nan]]"
    assert (batch.carried.tolist(), batch.age.tolist()) == ([[1.0], [10.0]], [[0.0], [2.0]])
    assert batch.missing[..., 0].tolist() == [[False] * 4, [False, False, True, True]]
    ahead = data.at(torch.tensor([4, 6]), config, ahead=2)
    assert str(ahead.windows[..., 0].tolist()) == "[[3.0, 4.0, 5.0, nan], [nan, 10.0, nan, nan]]"
    blank = opened(
        [torch.full((5, 1), NAN)],
        Levels.blank(regimes=1, columns=1),
        None,
        share=0.5,
        length=3,
        generator=torch.Generator(),
    )
    assert (blank.age == FAR).all() and not blank.carried.any()


def test_the_plain_methods() -> None:
    windows = torch.tensor([[[1.0, 5.0], [NAN, NAN], [4.0, NAN], [NAN, 7.0]]])
    carried, age = torch.tensor([[4.0, 7.0]]), torch.tensor([[1.0, 0.0]])
    assert last_value(windows, carried, age).equal(carried)
    assert window_mean(windows, carried, age).tolist() == [[2.5, 6.0]]
    assert window_mean(windows * NAN, carried, age).equal(carried)
    assert interpolated(windows, carried)[0, :, 0].tolist() == [1.0, 2.5, 4.0, 4.0]
    assert interpolated(windows * NAN, carried)[0, 0].tolist() == [4.0, 7.0]
    rows = torch.stack([torch.arange(100.0), 2 * torch.arange(100.0)], dim=1)
    rows[::2, 0] = NAN
    nearest = Nearest(rows)
    assert nearest(windows + 80, carried, age)[0, 0].item() == pytest.approx(43, abs=3)
    assert nearest(torch.full((1, 1, 2), NAN), carried, age).equal(carried)
