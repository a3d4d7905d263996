"""Properties of every frame encoder: batches do not matter, patches keep their places, and invalid frames are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.models.test_vision_vit import publish
from tocsin.models.vision.encoder import ON_CPU, Encoder, load

SIZE = (112, 224)
"""A multiple of every encoder's patch size."""


@pytest.fixture(scope="module", params=["efficientnet-lite0", "dinov2", "dinov3", "dinov3 merging"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    if request.param == "efficientnet-lite0":
        return load(size=SIZE, device="cpu")
    family, _, merging = request.param.partition(" ")
    directory = publish(tmp_path_factory.mktemp("vit") / "weights", family)
    return load(directory, size=SIZE, device="cpu", merge=0.9 if merging else None)


def noise(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def test_tokens_and_pooled_are_float32_of_the_promised_shape(encoder: Encoder) -> None:
    encoded, (h, w) = encoder(noise(2)), encoder.grid
    assert encoder.size == SIZE
    assert encoded.tokens.shape == (2, h * w, encoder.width)
    assert encoded.pooled.shape == (2, encoder.width)
    assert encoded.tokens.dtype == encoded.pooled.dtype == torch.float32


def test_an_empty_batch_gives_empty_tensors(encoder: Encoder) -> None:
    encoded, (h, w) = encoder(noise(0)), encoder.grid
    assert encoded.tokens.shape == (0, h * w, encoder.width)
    assert encoded.pooled.shape == (0, encoder.width)


def test_a_batch_split_in_two_gives_the_same(encoder: Encoder) -> None:
    frames = noise(5)
    assert len(frames) > ON_CPU
    whole, parts = encoder(frames), [encoder(some) for some in frames.split([2, 3])]
    torch.testing.assert_close(torch.cat([p.tokens for p in parts]), whole.tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([p.pooled for p in parts]), whole.pooled, atol=1e-5, rtol=1e-5)


def test_the_same_frames_give_the_same_bits_and_stay_as_they_are(encoder: Encoder) -> None:
    frames = noise(3)
    before = frames.clone()
    first, second = encoder(frames), encoder(frames)
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.pooled, second.pooled)
    assert torch.equal(frames, before)


def test_frames_as_a_decoder_lays_them_out_give_the_same(encoder: Encoder) -> None:
    frames = noise(2)
    decoded = frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # a view of [B, H, W, 3]
    torch.testing.assert_close(encoder(decoded).tokens, encoder(frames).tokens, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("place", [(0.1, 0.1), (0.1, 0.9), (0.9, 0.4)])
def test_what_changes_at_a_place_changes_its_token_most(place: tuple[float, float], encoder: Encoder) -> None:
    (height, width), (h, w) = encoder.size, encoder.grid
    row, column = int(place[0] * h), int(place[1] * w)
    y, x = row * height // h, column * width // w
    frames = torch.full((2, 3, height, width), 90, dtype=torch.uint8)
    frames[1, :, y : y + height // h, x : x + width // w] = 220
    tokens = encoder(frames).tokens
    assert divmod(int((tokens[1] - tokens[0]).norm(dim=1).argmax()), w) == (row, column)


def test_a_model_may_learn_from_what_comes_out(encoder: Encoder) -> None:
    head = torch.nn.Linear(encoder.width, 1)
    encoded = encoder(noise(1))
    (head(encoded.pooled).sum() + head(encoded.tokens).sum()).backward()
    assert head.weight.grad is not None
    assert not any(p.requires_grad for p in encoder._network.parameters())


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        (torch.zeros(2, 3, 112, 200, dtype=torch.uint8), "[2, 3, 112, 200] uint8"),
        (torch.zeros(2, 1, *SIZE, dtype=torch.uint8), "[2, 1, 112, 224] uint8"),
        (torch.zeros(3, *SIZE, dtype=torch.uint8), "[3, 112, 224] uint8"),
        (torch.zeros(0, *SIZE, 3, dtype=torch.uint8), "[0, 112, 224, 3] uint8"),
        (torch.zeros(2, 3, *SIZE), "[2, 3, 112, 224] float32"),
    ],
)
def test_frames_of_another_shape_or_dtype_are_refused_with_both(frames: Tensor, got: str, encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=re.escape(f"frames are {got}, expected [B, 3, 112, 224] uint8")):
        encoder(frames)


def test_name_and_version_tell_encoders_apart() -> None:
    fine, coarse = (load(size=(64, 64), device="cpu", layer=layer) for layer in ("stride16", "stride32"))
    assert (fine.name, coarse.name) == ("efficientnet-lite0-stride16", "efficientnet-lite0-stride32")
    assert fine.version == coarse.version == "579344248a93"


def test_the_device_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    encoder = load(size=(64, 64), compiled=True)  # `compiled` is for GPUs only
    assert encoder.device == torch.device("cpu")
    assert encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).tokens.device == torch.device("cpu")


def test_a_source_that_is_neither_a_name_nor_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is neither 'efficientnet-lite0' nor a directory"):
        load(tmp_path / "nowhere", size=(64, 64), device="cpu")
