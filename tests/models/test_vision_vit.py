"""Vision transformers in the published layout: outputs of the reference implementation, and refusal of invalid files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tocsin.models.vision.encoder import load
from tocsin.models.vision.published import settings
from tocsin.models.vision.vit import VisionTransformer

WIDTH, DEPTH = 32, 2
COMMON = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "hidden_act": "gelu"}
V2 = COMMON | {"image_size": 56, "patch_size": 14, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "qkv_bias": True}
V3 = COMMON | {
    "patch_size": 16,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "key_bias": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "dinov2": V2 | {"model_type": "dinov2", "use_swiglu_ffn": False},
    "dinov2 gated": V2 | {"model_type": "dinov2", "use_swiglu_ffn": True},
    "dinov2 registers": V2 | {"model_type": "dinov2_with_registers", "use_swiglu_ffn": False, "num_register_tokens": 4},
    "dinov3": V3 | {"model_type": "dinov3_vit", "use_gated_mlp": False, "num_register_tokens": 4},
    "dinov3 gated": V3
    | {"model_type": "dinov3_vit", "use_gated_mlp": True, "hidden_act": "silu", "num_register_tokens": 0},
}


def layout(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of the tensors, as published."""
    d, patch, v3 = WIDTH, config["patch_size"], config["model_type"] == "dinov3_vit"
    shapes = {"embeddings.cls_token": [1, 1, d], "embeddings.mask_token": [1, 1, d] if v3 else [1, d]}
    if config.get("num_register_tokens") is not None:
        shapes["embeddings.register_tokens"] = [1, config["num_register_tokens"], d]
    if not v3:
        shapes["embeddings.position_embeddings"] = [1, 1 + (config["image_size"] // patch) ** 2, d]
    layers: dict[str, list[int]] = {"embeddings.patch_embeddings" + ("" if v3 else ".projection"): [d, 3, patch, patch]}
    for i in range(DEPTH):
        block = f"layer.{i}" if v3 else f"encoder.layer.{i}"
        shapes |= {f"{block}.layer_scale{n}.lambda1": [d] for n in (1, 2)}
        layers |= {f"{block}.norm{n}": [d] for n in (1, 2)}
        if v3:
            layers |= {f"{block}.attention.{n}_proj": [d, d] for n in "qkvo"}
            layers |= {f"{block}.mlp.up_proj": [64, d], f"{block}.mlp.down_proj": [d, 64]}
            if config["use_gated_mlp"]:
                layers[f"{block}.mlp.gate_proj"] = [64, d]
        else:
            layers |= {f"{block}.attention.attention.{n}": [d, d] for n in ("query", "key", "value")}
            layers[f"{block}.attention.output.dense"] = [d, d]
            if config["use_swiglu_ffn"]:
                layers |= {f"{block}.mlp.weights_in": [176, d], f"{block}.mlp.weights_out": [d, 88]}
            else:
                layers |= {f"{block}.mlp.fc1": [128, d], f"{block}.mlp.fc2": [d, 128]}
    layers["norm" if v3 else "layernorm"] = [d]
    shapes |= {f"{name}.weight": shape for name, shape in layers.items()}
    return shapes | {f"{name}.bias": [shape[0]] for name, shape in layers.items() if not name.endswith("k_proj")}


def publish(directory: Path, kind: str) -> Path:
    """Write a directory with reproducible random weights of scale 0.3, those of normalisations around 1."""
    directory.mkdir()
    rng, config, weights = torch.Generator().manual_seed(7), CONFIGS[kind], {}
    for name, shape in sorted(layout(config).items()):
        weights[name] = 0.3 * torch.randn(shape, generator=rng) + ("norm" in name and name.endswith("weight"))
    save_file(weights, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def edit(directory: Path, change: dict[str, Tensor | None]) -> None:
    weights = load_file(directory / "model.safetensors") | change
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, directory / "model.safetensors")


def frames(count: int, height: int, width: int) -> Tensor:
    """Frames of waves, with a different direction and length for each colour."""
    y, x = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 9, indexing="ij")
    waves = [[torch.sin(x * (1 + c) + y * (3 - c) + n) for c in range(3)] for n in range(count)]
    return ((torch.stack([torch.stack(wave) for wave in waves]) + 1) * 127).to(torch.uint8)


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Patch 7 and class token of the second of two frames of 3 x 5 patches, channels 0..3. Source: `AutoModel` of
# transformers 5.24.0 on the same directory; frames are standardised by ImageNet's constants.
EXPECTED = {
    "dinov2": ([-0.10143, 2.05111, 0.24308, -0.14896], [-0.47105, -0.48074, 1.351, 0.38897]),
    "dinov2 gated": ([-0.61229, 1.48939, 0.09402, -1.48222], [-0.96603, -0.32713, 1.22171, 0.92097]),
    "dinov2 registers": ([-0.16682, 2.73088, -0.47757, -1.09519], [0.1123, 1.01848, -0.39774, 0.12008]),
    "dinov3": ([-0.1669, 1.34457, -0.29034, -0.52872], [0.37226, 1.00114, -0.27999, -0.78908]),
    "dinov3 gated": ([-0.16259, 1.75402, 0.13557, -0.32898], [-0.42873, 0.28007, 0.13442, -2.65616]),
}


def test_tokens_are_those_of_the_published_form(kind: str, tmp_path: Path) -> None:
    directory, patch = publish(tmp_path / "weights", kind), CONFIGS[kind]["patch_size"]
    size = (3 * patch, 5 * patch)
    encoder = load(directory, size=size, device="cpu", class_token=True)
    encoded = encoder(frames(2, *size))
    assert (encoder.grid, encoder.width) == ((3, 5), WIDTH)
    token, classed = (torch.tensor(values) for values in EXPECTED[kind])
    torch.testing.assert_close(encoded.tokens[1, 7, :4], token, atol=1e-4, rtol=0)
    torch.testing.assert_close(encoded.pooled[1, :4], classed, atol=1e-4, rtol=0)


def test_pooled_is_the_mean_of_the_patches_unless_the_class_token_is_asked_for(tmp_path: Path) -> None:
    directory = publish(tmp_path / "weights", "dinov3")
    some = frames(2, 32, 48)
    encoded = load(directory, size=(32, 48), device="cpu")(some)
    torch.testing.assert_close(encoded.pooled, encoded.tokens.mean(1))
    classed = load(directory, size=(32, 48), device="cpu", class_token=True)(some)
    assert (classed.pooled - encoded.pooled).abs().max() > 0.1
    torch.testing.assert_close(classed.tokens, encoded.tokens)


def test_nothing_is_merged_at_a_cosine_of_one(kind: str, tmp_path: Path) -> None:
    directory, side = publish(tmp_path / "weights", kind), 4 * CONFIGS[kind]["patch_size"]
    plain, merging = (load(directory, size=(side, side), device="cpu", merge=merge) for merge in (None, 1.0))
    torch.testing.assert_close(merging(frames(2, side, side)).tokens, plain(frames(2, side, side)).tokens)


def test_merged_tokens_come_back_in_their_places_and_like_the_unmerged(kind: str, tmp_path: Path) -> None:
    directory, side = publish(tmp_path / "weights", kind), 8 * CONFIGS[kind]["patch_size"]
    some = frames(2, side, side) // 8
    some[..., side // 2 :, :] += 200  # two halves, each of similar patches
    plain, merging = (load(directory, size=(side, side), device="cpu", merge=merge)(some) for merge in (None, 0.9))
    assert merging.tokens.shape == plain.tokens.shape
    difference = (merging.tokens - plain.tokens).abs().max()
    assert difference > 1e-3  # some were merged
    cosine = torch.nn.functional.cosine_similarity(merging.tokens, plain.tokens, dim=-1)
    assert cosine.mean() > 0.97
    assert torch.nn.functional.cosine_similarity(merging.pooled, plain.pooled).min() > 0.98


def test_merging_patches_that_are_the_same_changes_nothing(tmp_path: Path) -> None:
    directory = publish(tmp_path / "weights", "dinov2")
    edit(directory, {"embeddings.position_embeddings": torch.zeros(1, 17, WIDTH)})
    some = torch.full((1, 3, 112, 112), 40, dtype=torch.uint8)
    some[..., 84:] = 210  # 48 equal patches and 16 others: each kind weighs by its count
    plain, merging = (load(directory, size=(112, 112), device="cpu", merge=merge)(some) for merge in (None, 0.999))
    torch.testing.assert_close(merging.tokens, plain.tokens, atol=1e-4, rtol=0)


def test_a_merged_frame_does_not_depend_on_the_others_of_its_batch(tmp_path: Path) -> None:
    encoder = load(publish(tmp_path / "weights", "dinov3"), size=(96, 96), device="cpu", merge=0.8)
    some = frames(3, 96, 96)
    some[1] = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(0))  # noise merges less
    apart = torch.cat([encoder(frame[None]).tokens for frame in some])
    torch.testing.assert_close(encoder(some).tokens, apart, atol=1e-5, rtol=0)


@pytest.mark.parametrize("threshold", [None, 0.8])
def test_shapes_and_about_the_values_hold_under_bfloat16(kind: str, threshold: float | None, tmp_path: Path) -> None:
    directory, patch = publish(tmp_path / "weights", kind), CONFIGS[kind]["patch_size"]
    encoder = load(directory, size=(4 * patch, 4 * patch), device="cpu", merge=threshold)
    network = encoder._network
    assert isinstance(network, VisionTransformer)
    standard = frames(2, 4 * patch, 4 * patch).float() / 64 - 2
    with torch.inference_mode():
        wide, _ = network(standard)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, pooled = network(standard)
    assert (tokens.shape, tokens.dtype, pooled.shape) == (wide.shape, torch.float32, (2, WIDTH))
    assert torch.nn.functional.cosine_similarity(tokens.mean(1), wide.mean(1)).min() > (
        0.99 if threshold is None else 0.9
    )


LAYER = "encoder.layer.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LAYER: None}, f"{LAYER} is missing, expected [128, 32]"),
        ({LAYER: torch.zeros(64, 32)}, f"{LAYER} is [64, 32], expected [128, 32]"),
        (
            {LAYER: None, "blocks.1.mlp.fc1.weight": torch.zeros(128, 32)},
            "other tensors: blocks.1.mlp.fc1.weight [128, 32]",
        ),
        (
            {"encoder.layer.2.norm1.bias": torch.zeros(32)},
            "unexpected 1 other tensors: encoder.layer.2.norm1.bias",
        ),
        ({"embeddings.position_embeddings": torch.zeros(1, 50, 32)}, "is [1, 50, 32], expected [1, 17, 32]"),
    ],
)
def test_weights_that_are_not_as_published_are_named(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    directory = publish(tmp_path / "weights", "dinov2")
    edit(directory, change)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(directory, size=(56, 56), device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "model_type is 'vit', expected one of dinov2"),
        ({"hidden_size": "32"}, "hidden_size is '32', expected a whole number of at least 1"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, expected"),
        ({"num_attention_heads": 5}, "num_attention_heads (5) must divide hidden_size (32)"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0, expected a number above 0"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu' or 'silu'"),
        ({"qkv_bias": 1}, "qkv_bias is 1, expected true or false"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["dinov2"] | change))
    with pytest.raises(ValueError, match=re.escape(message)):
        settings(path)


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    directory = publish(tmp_path / "weights", "dinov2")
    (directory / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file"):
        load(directory, size=(56, 56), device="cpu")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load(directory, size=(56, 56), device="cpu")
    (directory / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        settings(directory / "config.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (56, 60)}, "size is (56, 60), expected multiples of the patch, 14; the nearest is (56, 56)"),
        ({"size": (0, 56)}, "size is (0, 56), expected multiples of the patch, 14; the nearest is (14, 56)"),
        ({"size": (56, 56), "merge": -0.1}, "merge is -0.1, expected a cosine of at least 0"),
        ({"size": (56, 56), "layer": "stride16"}, "layer is for efficientnet-lite0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(publish(tmp_path / "weights", "dinov2"), device="cpu", **options)


def test_half_precision_weights_are_read_and_other_weights_are_another_version(tmp_path: Path) -> None:
    directory = publish(tmp_path / "weights", "dinov2")
    full = load(directory, size=(56, 56), device="cpu")
    edit(directory, {name: t.half() for name, t in load_file(directory / "model.safetensors").items()})
    half = load(directory, size=(56, 56), device="cpu", merge=0.9, class_token=True)
    assert (full.name, half.name) == ("weights", "weights-merge0.9-class")
    assert len(full.version) == 12 and full.version != half.version
    assert half(frames(1, 56, 56)).tokens.dtype == torch.float32
