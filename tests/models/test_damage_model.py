"""A damage model: sizes of looks, any picture, a budget of everything is the full pass; figures, pictures by folder, storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tocsin.models.damage import closer
from tocsin.models.damage.config import DamageConfig
from tocsin.models.damage.evaluate import figures, macro_f1, verdicts
from tocsin.models.damage.frames import batch, plan, thin
from tocsin.models.damage.model import DamageModel, load
from tocsin.models.damage.network import CLASSES, DamageNetwork, NetworkConfig, relief
from tocsin.models.damage.pictures import held_back, labelled
from tocsin.models.damage.trunk import Trunk
from tocsin.models.vision import efficientnet
from tocsin.models.vision.picture import scaled
from tocsin.operators.budget import blend

LOOKS = {"small": 224 * 224, "large": 272 * 480, "finest": 4}


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    return Trunk(torch.device("cpu"))


@pytest.fixture(scope="module")
def model(trunk: Trunk) -> DamageModel:
    """A model that was not trained, with small looks so that a test is quick."""
    torch.manual_seed(0)
    config = DamageConfig(small=64 * 64, large=96 * 96, budget=0.5)
    return DamageModel(config, DamageNetwork(config.network), trunk)


def picture(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (rows, columns, 3), np.uint8)


def test_the_trunk_gives_what_the_encoder_gives_in_one_pass_for_all_sizes(trunk: Trunk) -> None:
    for size in ((64, 96), (48, 32)):
        frames = batch([picture(*size)])
        seen = trunk(frames)
        for layer, maps in (("stride8", seen.tokens[:, 48:]), ("stride16", seen.wide)):
            network = efficientnet.backbone(size, layer=layer).network.eval()
            with torch.inference_mode():
                tokens, _ = network((frames.float() - efficientnet.MEAN) / efficientnet.STD)
            torch.testing.assert_close(maps.flatten(2).mT, tokens, atol=2e-3, rtol=2e-3)
    with pytest.raises(ValueError, match="expected uint8 and sides in multiples of 16"):
        trunk(batch([picture(40, 64)]))


@pytest.mark.parametrize(
    ("shape", "size", "finer", "patches"),
    [
        ((1080, 1920), (272, 480), 4, 40),
        ((2160, 3840), (272, 480), 4, 40),
        ((720, 1280), (272, 480), 2, 12),
        ((227, 227), (224, 224), 1, 0),
        ((100, 464), (96, 480), 1, 0),
        ((12, 2000), (32, 2896), 1, 0),
    ],
)
def test_a_picture_keeps_its_shape_and_only_a_large_one_has_patches(
    shape: tuple[int, int], size: tuple[int, int], finer: int, patches: int
) -> None:
    looks = plan(shape, **LOOKS)
    assert (looks.size, looks.finer, len(looks.corners)) == (size, finer, patches)
    covered = np.zeros((looks.grid[0] * finer, looks.grid[1] * finer), bool)
    for y, x in looks.corners.tolist():
        covered[y : y + looks.side[0], x : x + looks.side[1]] = True
    assert covered.all() or not patches


def test_a_budget_of_everything_is_the_full_pass(model: DamageModel) -> None:
    image = picture(400, 500)
    looks = model.plan((400, 500))
    assert (looks.finer, len(looks.corners)) == (4, 4)
    _, judged = model.judge(batch([scaled(image, looks.size)]))
    fine = scaled(image, (4 * looks.size[0], 4 * looks.size[1]))
    close = model.looks(fine, looks, torch.arange(len(looks.corners)))
    coarse = closer.enlarged(judged.places[0], (4 * looks.grid[0], 4 * looks.grid[1]))
    whole = blend(coarse, close.places, looks.corners).sigmoid()
    found = model(image, budget=1.0)
    np.testing.assert_allclose(found.places, whole.numpy(), atol=1e-5)
    assert found.looks == (len(looks.corners), len(looks.corners))
    logits = torch.cat([judged.pictures, close.pictures]).amax(0)
    np.testing.assert_allclose(found.classes, logits.softmax(0).numpy(), atol=1e-5)


def test_less_budget_is_fewer_looks_in_the_order_given(model: DamageModel) -> None:
    image = picture(400, 500)
    count = len(model.plan((400, 500)).corners)
    assert model(image, budget=0).looks == (0, count) and model(image).looks == (round(0.5 * count), count)
    order = torch.arange(count, 0, -1).float()  # the last patch first
    last = model(image, budget=1 / count, order=order)
    coarse = closer.enlarged(torch.from_numpy(model(image, budget=0).places).logit(), last.places.shape[1:]).sigmoid()
    apart = np.abs(last.places - coarse.numpy()).max(0)
    assert last.looks[0] == 1 and apart[-1, -1] > 0.001 and apart[0].max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (8, 3000), (224, 224), (300, 500)])
def test_any_picture_has_a_finding(model: DamageModel, size: tuple[int, int]) -> None:
    found = model(picture(*size))
    assert np.isfinite(found.places).all() and found.classes.sum() == pytest.approx(1, abs=1e-5)
    assert found.kind in CLASSES[1:] and 0 <= found.score <= 1 and 0 <= found.extent <= 1


def test_relief_does_not_know_light_nor_contrast() -> None:
    base = torch.from_numpy(picture(64, 64)[None, None, :, :, 0] // 4)
    one, other = relief(base + 40), relief(2 * base + 90)
    assert (one - other).abs().mean() < 0.15 * one.abs().mean()


def test_thin_lines_are_known_to_be_lost() -> None:
    wall = np.full((256, 256, 3), 150, np.uint8)
    wall[100:102, 128:] = 20
    unseen = thin(wall, (8, 8))
    assert unseen.shape == (8, 8)
    assert bool((unseen[3, 4:] > 0.1).all()) and float(unseen[:3].max()) == 0 and float(unseen[3, :3].max()) == 0


def test_close_looks_go_first_where_the_coarse_one_suspects_damage_or_thin_lines_are_strong() -> None:
    places, lines = torch.full((3, 8, 8), -3.0), torch.zeros(8, 8)
    places[1, 5, 6], lines[1, 1] = 4.0, 0.6
    corners = torch.tensor([[0, 0], [0, 4], [4, 0], [4, 4]])
    sure = closer.confidence(closer.suspect(places, lines), corners, (4, 4))
    assert {*sure.argsort().tolist()[:2]} == {0, 3} and float(sure[1]) == pytest.approx(float(sure[2]))


def test_it_is_stored_whole_and_another_encoder_is_refused(model: DamageModel, trunk: Trunk, tmp_path: Path) -> None:
    model.save(tmp_path)
    other, image = load(tmp_path, "cpu"), picture(300, 400)
    assert other.config == model.config and other.parameters == model.parameters
    np.testing.assert_array_equal(other(image).places, model(image).places)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"closer.shift": torch.zeros(1)}, tmp_path / "model.safetensors")  # as earlier versions stored
    assert load(tmp_path, "cpu").parameters == model.parameters
    with pytest.raises(ValueError, match="the model was trained on encoder 0123, got efficientnet-lite0-stride16"):
        DamageModel(DamageConfig(encoder="0123"), model.network, trunk)


def test_the_baseline_has_no_mechanism_and_gates_can_be_left_out(trunk: Trunk) -> None:
    seen = trunk(batch([picture(64, 64)]))
    for config in (NetworkConfig(mechanism=False), NetworkConfig(gates=False), NetworkConfig(relief=0)):
        network = DamageNetwork(config)
        judged = network(seen)
        assert judged.places.shape == (1, 3, 8, 8) and judged.pictures.shape == (1, 4)
        assert float(judged.pictures[0, 0].detach()) == 0


def test_figures_are_what_a_plain_count_gives() -> None:
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.4, 0.5, 0.1, 0], [0.2, 0.1, 0.7, 0], [0.6, 0.3, 0.1, 0]], np.float32)
    kinds = np.array([0, 1, 1, 1])
    said = verdicts(probabilities, [0, 1], 0.5)
    assert said.tolist() == [0, 1, 1, 0]  # spalling does not occur, so it is not asked about
    assert macro_f1(said, kinds) == pytest.approx((2 / 3 + 0.8) / 2)
    found = figures(probabilities, kinds)
    assert (found["auroc"], found["precision"], found["recall"]) == (1.0, 1.0, pytest.approx(2 / 3))
    assert figures(probabilities, np.zeros(4, int))["macro_f1"] is None


def test_folders_name_what_their_pictures_show(tmp_path: Path) -> None:
    for name in (
        "a/No-Crack/1.jpg",
        "a/CRACK/10.png",
        "a/CRACK/9.png",
        "b/salt_damage/x.jpeg",
        "b/other/1.jpg",
        "b/crack/n.txt",
    ):
        (file := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    found, others = labelled(tmp_path)
    names = [(one.path.name, one.kind) for one in found]
    assert names == [("9.png", "crack"), ("10.png", "crack"), ("1.jpg", "intact"), ("x.jpeg", "efflorescence")]
    assert others == 1
    first, last = held_back(found)
    assert [one.path.name for one in first] == ["9.png"] and len(last) == 3
    with pytest.raises(ValueError, match=r"9\.png: expected a whole JPEG, PNG, BMP or WebP, got 0 bytes"):
        found[0].read()
    with pytest.raises(ValueError, match="expected folders of pictures such as intact, crack"):
        labelled(tmp_path / "b" / "other")
