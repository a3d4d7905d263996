"""The network of the frames' job: EfficientNet-Lite0 on frames of 144 x 256. A row has the mean of its frame's features."""

from functools import cache

from tocsin.models.surprise.config import EncoderConfig
from tocsin.models.vision.encoder import load

CONFIG = EncoderConfig()


@cache
def _encoder():
    return load(CONFIG.source, size=(CONFIG.height, CONFIG.width), device="cpu", layer=CONFIG.layer)


def mean(pixels):
    """`[B, 3, H, W]` uint8 -> `[B]`."""
    return {"mean": _encoder()(pixels).tokens.mean((1, 2))}
