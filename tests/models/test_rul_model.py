"""The stored model: same predictions after loading and in any batch split, and its published test figures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tocsin.models.rul.config import NetworkSize, RulConfig
from tocsin.models.rul.evaluate import evaluate, metrics
from tocsin.models.rul.model import FD001, RulModel, build, load

REPOSITORY = Path(__file__).parents[2]
CMAPSS_DATA = Path(os.environ.get("TOCSIN_DATA", REPOSITORY.parent / "shared" / "data")) / "cmapss"
SMALL = RulConfig(
    key="unit",
    order="cycle",
    features=("a", "b"),
    mean=(600.0, 0.02),
    scale=(0.5, 3e-4),
    network=NetworkSize(conv=(4, 6), lstm=5, attention=3, head=(7, 4)),
)


def raw_windows(config: RulConfig, count: int) -> torch.Tensor:
    noise = torch.randn(count, config.window, len(config.features), generator=torch.Generator().manual_seed(3))
    return torch.tensor(config.mean) + noise * torch.tensor(config.scale)


def test_saved_model_predicts_bit_for_bit_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = RulModel(SMALL, build(SMALL), torch.device("cpu"))
    model.save(tmp_path / "new")
    again = load(tmp_path / "new", device="cpu")
    assert again.config == SMALL
    batch = raw_windows(SMALL, 16)
    for name, value in model(batch).items():
        assert torch.equal(value, again(batch)[name])


def test_shipped_model_judges_any_batch_split_alike() -> None:
    model = load(device="cpu")
    batch = raw_windows(model.config, 100)
    whole = model(batch)
    for size in (1, 7, 64):
        parts = [model(part) for part in batch.split(size)]
        for name, value in whole.items():
            torch.testing.assert_close(torch.cat([p[name] for p in parts]), value, atol=1e-4, rtol=0)
    assert ((whole["rul"] >= 0) & (whole["rul"] <= model.config.cap)).all()
    torch.testing.assert_close(whole["attention"].sum(1), torch.ones(100))


def test_no_windows_give_no_predictions() -> None:
    model = load(device="cpu")
    judged = model(raw_windows(model.config, 0))
    assert judged["rul"].shape == (0,)
    assert judged["attention"].shape == (0, model.config.window)


def test_wrong_windows_and_unfitted_configs_are_refused() -> None:
    model = RulModel(SMALL, build(SMALL), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"\[4, 30, 3\], expected \[B, 30, 2\]"):
        model(torch.zeros(4, 30, 3))
    with pytest.raises(ValueError, match="no mean and scale"):
        RulModel(replace(SMALL, mean=(), scale=()), build(SMALL), torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_in_bfloat16_agrees_with_the_cpu() -> None:
    cpu, gpu = load(device="cpu"), load(device="auto")
    assert gpu.device.type == "cuda"
    batch = raw_windows(cpu.config, 64)
    torch.testing.assert_close(gpu(batch)["rul"], cpu(batch)["rul"], atol=3.0, rtol=0)


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in FD001.iterdir()) < 5_000_000


def test_metrics_are_the_published_ones() -> None:
    figures = metrics(torch.tensor([30.0, 70.0]), torch.tensor([50.0, 50.0]))
    assert figures["score"] == pytest.approx(3.66 + 6.39, abs=0.01)
    assert (figures["rmse"], figures["mae"], figures["mean_error"]) == (20, 20, 0)


@pytest.mark.skipif(not (CMAPSS_DATA / "RUL_FD001.txt").exists(), reason=f"needs C-MAPSS in {CMAPSS_DATA}")
def test_shipped_model_reaches_its_figures_on_the_test_engines() -> None:
    figures = evaluate(data=CMAPSS_DATA, device="cpu")
    assert figures["engines"] == 100
    assert float(figures["rmse"]) <= 13.0
    assert float(figures["score"]) <= 300
    assert float(figures["rmse_uncapped"]) > float(figures["rmse"])
