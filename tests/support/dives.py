"""A small surprise model and clips to test it: a camera moves over a texture, and something bright comes into view."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tocsin.models.surprise.config import EncoderConfig, SurpriseConfig
from tocsin.models.surprise.detector import DetectorConfig
from tocsin.models.surprise.network import NetworkConfig
from tocsin.models.surprise.train import Recipe, fit, footage
from tocsin.models.vision.appearance import Appearance
from tocsin.models.vision.encoder import load as encoder

SIZE = (64, 96)
SEEN = EncoderConfig(height=SIZE[0], width=SIZE[1])
CONFIG = SurpriseConfig(encoder=SEEN, network=NetworkConfig(tokens=8, state=8, hidden=12), rank=2)
RECIPE = Recipe(steps=60, clips=4, length=10)


def pan(frames: int, *, fish: tuple[int, int] | None = None, seed: int = 0, speed: float = 3.0) -> torch.Tensor:
    """Return a clip `[T, 3, H, W] uint8` of a camera that moves to and fro over a texture; `fish`: frames with something bright."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(40, 160, (24, 60, 3), np.uint8), (480, 160), interpolation=cv2.INTER_CUBIC)
    pictures = []
    for at in range(frames):
        x = round(190 + 150 * np.sin(at * speed / 150))
        frame = ground[40 : 40 + SIZE[0], x : x + SIZE[1]].copy()
        if fish and fish[0] <= at <= fish[1]:
            cv2.ellipse(frame, (20 + 4 * (at - fish[0]), 34), (22, 11), 0, 0, 360, (250, 240, 40), -1)
        pictures.append(frame)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def small_model(folder: Path) -> None:
    """Train a model on three such clips and save it."""
    torch.set_num_threads(1)
    eye = encoder(size=SIZE, device="cpu", layer=SEEN.layer)
    config = SurpriseConfig(
        encoder=SEEN,
        network=CONFIG.network,
        rank=2,
        detector=DetectorConfig(warmup=10, window=60, cooldown=10, factor=12.0),
        appearance=Appearance(highlights=(30, None)),
    )
    fit([footage([pan(60, seed=n, speed=3.0 + 3 * n)], eye) for n in range(3)], config, eye, RECIPE).save(folder)


def as_before(folder: Path) -> None:
    """Rewrite a model with one head of triage as it was stored when there was no other."""
    config = json.loads((folder / "config.json").read_text())
    assert config["triage"].pop("heads") == 1
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    save_file({name.replace("heads.0.", ""): t for name, t in weights.items()}, folder / "model.safetensors")
