"""EfficientNet-Lite0 against the original package's network, at every layer and at sizes that strides do not divide."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tocsin.models.vision import efficientnet
from tocsin.models.vision.encoder import load


def waves(count: int, height: int, width: int) -> Tensor:
    """Frames of waves, with a different direction and length for each colour."""
    y, x = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 9, indexing="ij")
    frames = [[torch.sin(x * (1 + c) + y * (3 - c) + n) for c in range(3)] for n in range(count)]
    return ((torch.stack([torch.stack(frame) for frame in frames]) + 1) * 127).to(torch.uint8)


# The second frame's mean and last patch, channels 0..3. Source: the network of `efficientnet_lite_pytorch` 0.1.0 with
# the same weights, padded by the frames' size; frames are standardised by (x - 127) / 128.
EXPECTED = [
    ((96, 160), "stride8", (12, 20), 40, [5.191, -2.3821, -7.2297, -1.8749], [21.1969, -7.404, -2.5155, -4.9967]),
    ((96, 160), "stride16", (6, 10), 112, [4.2629, -0.0595, 2.2271, 2.1189], [-9.284, -3.6022, 1.8453, -12.3184]),
    ((96, 160), "stride32", (3, 5), 320, [0.1075, 0.303, 2.1854, 0.2704], [-0.1038, 2.8894, 1.78, -0.2715]),
    ((75, 101), "stride8", (10, 13), 40, [3.5579, -2.8462, -3.8817, -1.0832], [-1.1304, -3.8456, 7.1202, -4.3695]),
    ((75, 101), "stride16", (5, 7), 112, [2.9544, -0.5974, 2.6194, -0.7052], [-11.2765, 4.8629, -1.7559, -6.3952]),
    ((75, 101), "stride32", (3, 4), 320, [0.0824, 1.4205, -0.6482, -1.5403], [-0.6792, 2.8815, 1.7762, -2.0107]),
]


@pytest.mark.parametrize(("size", "layer", "grid", "width", "mean", "last"), EXPECTED)
def test_tokens_are_those_of_the_packages_network(
    size: tuple[int, int], layer: str, grid: tuple[int, int], width: int, mean: list[float], last: list[float]
) -> None:
    encoder = load(size=size, device="cpu", layer=layer)
    encoded = encoder(waves(2, *size))
    assert (encoder.grid, encoder.width) == (grid, width)
    assert encoded.tokens.shape == (2, grid[0] * grid[1], width)
    torch.testing.assert_close(encoded.pooled[1, :4], torch.tensor(mean), atol=5e-4, rtol=0)
    torch.testing.assert_close(encoded.tokens[1, -1, :4], torch.tensor(last), atol=5e-4, rtol=0)


def test_shapes_and_about_the_values_hold_under_bfloat16() -> None:
    network = load(size=(64, 96), device="cpu")._network
    standard = (waves(2, 64, 96).float() - 127) / 128
    with torch.inference_mode():
        wide, _ = network(standard)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, pooled = network(standard)
    assert (tokens.shape, tokens.dtype, pooled.shape) == ((2, 24, 112), torch.float32, (2, 112))
    assert torch.nn.functional.cosine_similarity(tokens, wide, dim=-1).min() > 0.98


def test_weights_other_than_the_known_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = efficientnet.SHA256
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match=f"sha256 is {known}, expected {'0' * 64}; reinstall"):
        load(size=(64, 64), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": (64, 64), "layer": "head"},
            "layer 'head' is none of EfficientNet-Lite0's: stride8, stride16, stride32",
        ),
        ({"size": (64, 0)}, "size is (64, 0), expected a height and a width of at least 1"),
        ({"size": (64, 64), "merge": 0.9}, "merge and class_token are for vision transformers"),
        ({"size": (64, 64), "class_token": True}, "merge and class_token are for vision transformers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(device="cpu", **options)  # type: ignore[arg-type]
