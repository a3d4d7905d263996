"""Finds hands in frames that come without boxes: a small network on a frozen encoder, trained on simulated tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tocsin.models import files
from tocsin.models.touch.truth import HANDS
from tocsin.models.trained import CONFIG_FILE, restore, store
from tocsin.models.vision.encoder import DEFAULT, Encoder
from tocsin.models.vision.encoder import load as load_encoder

SHIPPED = Path(__file__).parent / "weights" / "finder"
SIDES = 4
RARE = -4.0
"""Initial bias of the logits: few places lie in the middle of a hand."""
SIDE = 0.1
"""Distance of a box's side from its place that an output of 0 stands for, as a share of the frame."""
SUREST = 5
"""Number of likeliest places whose boxes, weighted by their probabilities, are averaged into a hand's box."""
SAME = 0.5
"""Overlap (intersection over union) above which a left and a right hand are one hand, found twice."""


@dataclass(frozen=True)
class FinderConfig:
    """Configuration of a finder.

    Args:
        source, layer: source and layer of the encoder, see `tocsin.models.vision.encoder.load`.
        height, width: size to which frames are reduced, pixels.
        hidden: channels of the network.
        sure: lowest probability, 0 to 1, at which a hand counts as found.
        version: version of the encoder's weights in training.
    """

    source: str = DEFAULT
    layer: str = "stride8"
    height: int = 144
    width: int = 256
    hidden: int = 48
    sure: float = 0.5
    version: str = ""


class FinderNet(nn.Module):
    """Predicts for each place of a frame whether it lies in the middle of a hand, and how far that hand's sides are from it.

    Args:
        width: channels of the encoder's tokens; hidden: channels of the network; grid: rows and columns of places.
    """

    centre: Tensor
    scale: Tensor
    places: Tensor

    def __init__(self, width: int, hidden: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.bring = nn.Conv2d(width + 2, hidden, 1)
        self.around = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=wide, dilation=wide) for wide in (1, 2, 4, 1))
        self.say = nn.Conv2d(hidden, len(HANDS) * (1 + SIDES), 1)
        with torch.no_grad():
            assert self.say.bias is not None
            self.say.bias[: len(HANDS)] = RARE
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        rows, columns = ((torch.arange(count) + 0.5) / count for count in grid)
        self.register_buffer("places", torch.stack(torch.meshgrid(columns, rows, indexing="xy")), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Predict hands from a frame's tokens.

        Args:
            tokens: `[B, N, width]`.

        Returns:
            Logits that each place is in the middle of each hand, `[B, 2, h, w]`, and the box around each place, left, top, right,
            bottom as shares of the frame, `[B, 2, 4, h, w]`.
        """
        features = ((tokens - self.centre) / self.scale).clamp(-6, 6).mT.unflatten(2, self.grid)
        features = self.bring(torch.cat([features, (self.places * 2 - 1).expand(len(features), -1, -1, -1)], 1))
        for convolution in self.around:
            features = features + F.gelu(convolution(F.gelu(features)))
        output = self.say(features)
        distances = SIDE * output[:, len(HANDS) :].unflatten(1, (len(HANDS), SIDES)).clamp(max=3).exp()
        return output[:, : len(HANDS)], torch.cat(
            [self.places - distances[:, :, :2], self.places + distances[:, :, 2:]], 2
        )


class HandFinder:
    """Finds up to one left and one right hand in a frame.

    Args:
        config: its version names the encoder weights of training; "" accepts any.
        net: the network, which is set to evaluation mode and frozen.
        encoder: of the frames.

    Raises:
        ValueError: the encoder is not the one of training.
    """

    def __init__(self, config: FinderConfig, net: FinderNet, encoder: Encoder) -> None:
        if config.version not in ("", encoder.version):
            raise ValueError(
                f"the hand finder was trained on encoder {config.version}, got {encoder.name} {encoder.version}; "
                "use that one, or train it on this one"
            )
        self.config = replace(config, version=encoder.version)
        self.net, self._encoder = net.eval().requires_grad_(False), encoder

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """`[B, 3, H, W] uint8` -> `[B, 2, 4]`, boxes as in `tocsin.models.touch.hands.cut`, NaN for a hand that is not found."""
        boxes, probability = decode(*self.net(self._encoder(reduced(pixels, self.config)).tokens))
        return torch.where((probability >= self.config.sure)[..., None], boxes, torch.nan)

    def boxed(self, pictures: Iterable[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Yield pictures `[H, W, 3]` RGB, each with the boxes `[2, 4]` that are found in it."""
        for picture in pictures:
            yield picture, self(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].numpy()

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is created if missing."""
        store(self.net, self.config, directory)


def load(directory: Path | str = SHIPPED, device: str = "auto") -> HandFinder:
    """Load a finder. Its network is small and runs on the CPU; the encoder runs on `device`.

    Raises:
        ValueError: the finder does not fit the installed encoder.
    """
    config = FinderConfig(**files.read_json(Path(directory) / CONFIG_FILE))
    encoder = encoder_of(config, device)
    net = FinderNet(encoder.width, config.hidden, encoder.grid)
    restore(net, Path(directory))
    return HandFinder(config, net, encoder)


def encoder_of(config: FinderConfig, device: str = "auto") -> Encoder:
    """Load the encoder of a finder."""
    return load_encoder(config.source, size=(config.height, config.width), device=device, layer=config.layer)


def reduced(pixels: Tensor, config: FinderConfig) -> Tensor:
    """Reduce frames `[B, 3, H, W] uint8` to the encoder's size."""
    return F.interpolate(pixels.float(), (config.height, config.width), mode="area").round().to(torch.uint8)


def decode(logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Decode `FinderNet`'s output into a box for each hand, `[B, 2, 4]`, and its probability, `[B, 2]`.

    If both boxes are of one hand, the less likely one gets 0.
    """
    likely, where = logits.sigmoid().flatten(2).topk(SUREST, -1)
    weights = likely / likely.sum(-1, keepdim=True)
    chosen = boxes.flatten(3).gather(3, where[:, :, None].expand(-1, -1, SIDES, -1))
    found, probability = (chosen * weights[:, :, None]).sum(-1).clamp(0, 1), likely[..., 0]
    duplicate = overlap(found[:, 0], found[:, 1]) > SAME
    return found, torch.where(duplicate[:, None] & (probability < probability.amax(1, keepdim=True)), 0.0, probability)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes `[..., 4]`."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6)
