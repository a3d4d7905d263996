"""Encode frames as tokens with a frozen backbone: one interface to EfficientNet-Lite0 and the DINO vision transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tocsin.models.trained import placed
from tocsin.models.vision.backbone import Backbone

DEFAULT = "efficientnet-lite0"
ON_CPU = 4
"""Frames per forward pass on a CPU. A larger batch does not fit its caches, and is slower per frame."""


@dataclass(frozen=True)
class Encoded:
    """Output of an encoder for B frames: N patches in row-major order, and one vector per frame.

    Args:
        tokens: `[B, N, D] float32`, N = h * w of the encoder's `grid`.
        pooled: `[B, D] float32`, the mean of the patches, or a transformer's class token if that was requested.
    """

    tokens: Tensor
    pooled: Tensor


class Encoder:
    """A frozen backbone on a device. Except for rounding, its output for a frame does not depend on the batch.

    Args:
        backbone: see `Backbone`; its network is moved to `device` and frozen.
        device: on `cuda` the network runs under bfloat16 autocast, elsewhere in float32.
        compiled: on `cuda`, compile the network at its first frames (about a minute); no effect elsewhere.
    """

    def __init__(self, backbone: Backbone, device: torch.device, *, compiled: bool = False) -> None:
        self.device, self._backbone = device, backbone
        network = backbone.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.eval().requires_grad_(False)
        if compiled and device.type == "cuda":
            self._network = torch.compile(self._network, dynamic=True)  # the size of a micro-batch varies
        self._mean = torch.tensor(backbone.mean, device=device)[:, None, None]
        self._factor = 1 / torch.tensor(backbone.std, device=device)[:, None, None]

    def __call__(self, frames: Tensor) -> Encoded:
        """Encode frames.

        Args:
            frames: `[B, 3, H, W] uint8`, RGB, on any device; B may be 0. Fastest when laid out as `[B, H, W, 3]`.

        Returns:
            Tokens and pooled, on the device of `frames`.

        Raises:
            ValueError: if the frames are not uint8, or H and W are not the encoder's `size`.
        """
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1:] != (3, *self.size):
            got, (h, w) = f"{list(frames.shape)} {str(frames.dtype).removeprefix('torch.')}", self.size
            raise ValueError(
                f"frames are {got}, expected [B, 3, {h}, {w}] uint8; scale them to the encoder's size first"
            )
        source_device = frames.device
        cuda = self.device.type == "cuda"
        if cuda and not frames.is_cuda:
            frames = frames.pin_memory()  # the copy below would block on pageable memory
        parts = []
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda):
            for batch in frames.split(max(len(frames), 1) if cuda else ON_CPU):
                moved = batch.to(self.device, non_blocking=True)  # copied as bytes: a quarter of the size of floats
                scaled = moved.to(torch.float32, memory_format=torch.channels_last).sub_(self._mean).mul_(self._factor)
                parts.append([part.float().to(source_device) for part in self._network(scaled)])
        # Outside inference mode: autograd cannot save inference tensors, and models train on these.
        tokens, pooled = (torch.cat(part) for part in zip(*parts, strict=True))
        return Encoded(tokens, pooled)

    @property
    def name(self) -> str:
        """Name of the network, with the options that change its output."""
        return self._backbone.name

    @property
    def version(self) -> str:
        """The first digits of a sha256 over the weights."""
        return self._backbone.version

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a frame, in pixels."""
        return self._backbone.size

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches; N = h * w."""
        return self._backbone.grid

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self._backbone.width


def load(
    source: str | Path = DEFAULT,
    *,
    size: tuple[int, int],
    device: str = "auto",
    layer: str | None = None,
    merge: float | None = None,
    class_token: bool = False,
    compiled: bool = False,
) -> Encoder:
    """Load an encoder for frames of one size.

    Args:
        source: "efficientnet-lite0", whose weights come with a package; or a directory with `config.json` and
            `model.safetensors` of a DINOv2 or DINOv3 vision transformer, see `tocsin.models.vision.vit`.
        size: (H, W) of a frame, in pixels; for a transformer, multiples of its patch.
        device: see `tocsin.models.trained.placed`.
        layer: for EfficientNet-Lite0, the layer to use: see `tocsin.models.vision.efficientnet.LAYERS`.
        merge: for a transformer, the least cosine at which each block merges tokens: see `tocsin.operators.merging.merge`.
        class_token: for a transformer, whether `pooled` is its class token.
        compiled: see `Encoder`.

    Raises:
        ValueError: if there is no such encoder, an option does not apply to it, or its weights are not the expected ones.
    """
    if str(source) == DEFAULT:
        if merge is not None or class_token:
            raise ValueError(f"merge and class_token are for vision transformers, not for {DEFAULT}")
        from tocsin.models.vision import efficientnet

        backbone = efficientnet.backbone(size, layer=layer or efficientnet.LAYER)
    elif (directory := Path(source)).is_dir():
        if layer is not None:
            raise ValueError(f"layer is for {DEFAULT}, not for the vision transformer in {directory}")
        from tocsin.models.vision import vit

        backbone = vit.backbone(directory, size, merge=merge, class_token=class_token)
    else:
        raise ValueError(f"encoder {str(source)!r} is neither {DEFAULT!r} nor a directory with a vision transformer")
    return Encoder(backbone, placed(device), compiled=compiled)
