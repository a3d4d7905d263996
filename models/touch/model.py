"""A trained touch model: from frames and boxes, it predicts how likely each hand makes contact or lets go in each frame."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tocsin.models.touch.config import EyeConfig, TouchConfig
from tocsin.models.touch.decode import decided
from tocsin.models.touch.hands import crops, present
from tocsin.models.touch.moving import FINER, MOTION, moving
from tocsin.models.touch.network import Tokens, TouchNet
from tocsin.models.trained import restore, store
from tocsin.models.vision import flow
from tocsin.models.vision.appearance import Eye
from tocsin.models.vision.encoder import Encoder
from tocsin.models.vision.encoder import load as encoder

SHIPPED = Path(__file__).parent / "weights" / "table"
SCENE_GAIN, HAND_GAIN = 2.0, 30.0
"""Gains before `asinh`: motions up to 1 / gain stay nearly linear, larger ones become logarithmic.

Scene motion is in pixels, hand motion in half sides of the hand's square.
"""
SCENE_PLACE, HAND_PLACE = 32, 24
"""Sides of the places that tokens cover without an encoder, in pixels of the reduced frame and of a hand's square."""


class Eyes:
    """Extracts tokens of whole frames and of hands: their motion, and their appearance to a frozen encoder.

    Args:
        config: the features to extract.
        device: see `tocsin.models.trained.placed`.

    Raises:
        ValueError: there is no such encoder, or its version is not the config's.
    """

    def __init__(self, config: EyeConfig, device: str = "auto") -> None:
        c, self.config = config, config
        self._encoders: tuple[Encoder, Encoder] | None = None
        self.scene = Tokens(MOTION, (c.scene_height // SCENE_PLACE, c.scene_width // SCENE_PLACE))
        self.hands = Tokens(MOTION, (c.crop // HAND_PLACE, c.crop // HAND_PLACE))
        if not c.looks:
            return
        scene = encoder(c.source, size=(c.scene_height, c.scene_width), device=device, layer=c.scene_layer)
        hands = encoder(c.source, size=(c.crop, c.crop), device=device, layer=c.hands_layer)
        if c.version not in ("", scene.version):
            raise ValueError(
                f"the model was trained on encoder {c.version}, got {scene.name} {scene.version}; use that one, or train "
                "the model on this one"
            )
        self._encoders, self.config = (scene, hands), replace(c, version=scene.version)
        self.scene, self.hands = (Tokens(eye.width + MOTION, eye.grid) for eye in (scene, hands))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames."""
        return self.config.height, self.config.width

    def __call__(self, pixels: Tensor | None, boxes: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Extract the tokens of frames and of the hands in them.

        Args:
            pixels: `[B, 3, *size] uint8`; None if `config.looks` is False.
            boxes: `[B, 2, 4] float32`, as in `tocsin.models.touch.hands.cut`.
            pairs: `[B, 2, *size] uint8`, from `flow.grey`: the previous frame and the frame. A first frame is its own previous one.

        Returns:
            The tokens of the scene, `[B, N, C1]`, and of the hands, `[B, 2, M, C2]`, zeros for an absent hand. The encoder's
            channels come first, if there is one, and motion (`tocsin.models.touch.moving`) last.
        """
        c, visible = self.config, present(boxes)
        motion = moving(pairs, boxes, size=(c.scene_height, c.scene_width), side=c.crop, enlarge=c.enlarged)
        scene = _tokens(motion.scene, self.scene.grid, SCENE_GAIN)
        hands = _tokens(motion.hands.flatten(0, 1), self.hands.grid, HAND_GAIN * 2 / c.crop).unflatten(0, visible.shape)
        if self._encoders:
            assert pixels is not None
            scene_encoder, hand_encoder = self._encoders
            small = F.interpolate(pixels.float(), motion.scene.shape[2:], mode="area").round().to(torch.uint8)
            scene = torch.cat([scene_encoder(small).tokens, scene], -1)
            hand_crops = crops(pixels, boxes, size=c.crop, enlarge=c.enlarged)[visible]
            appearance = hands.new_zeros(*hands.shape[:3], hand_encoder.width)
            appearance[visible] = hand_encoder(hand_crops).tokens
            hands = torch.cat([appearance, hands], -1)
        return scene, hands


def _tokens(motion: Tensor, grid: tuple[int, int], gain: float) -> Tensor:
    """Convert motion `[B, CHANNELS, H, W]` to tokens `[B, N, MOTION]`; large motions become logarithmic."""
    fine = F.adaptive_avg_pool2d(motion, (FINER * grid[0], FINER * grid[1]))
    channels = torch.cat([torch.asinh(fine[:, :2] * gain), fine[:, 2:]], 1)
    parts = channels.unflatten(3, (-1, FINER)).unflatten(2, (-1, FINER))  # [B, C, h, FINER, w, FINER]
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class TouchModel:
    """Encoder and network in one.

    Args:
        config: its encoder's version names the weights that the network was trained with.
        net: the network, which is set to evaluation mode and frozen.
        eyes: extracts the tokens.
    """

    def __init__(self, config: TouchConfig, net: TouchNet, eyes: Eyes) -> None:
        self.config = replace(config, eye=eyes.config)
        self.net, self._eyes = net.eval().requires_grad_(False), eyes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames that it takes."""
        return self._eyes.size

    @property
    def eyes(self) -> Eyes:
        """The extractor of its tokens."""
        return self._eyes

    def with_thresholds(self, *, contact: float | None = None, release: float | None = None) -> TouchModel:
        """The model with other score thresholds; None: as they are."""
        decode = self.config.decode.with_thresholds(contact, release)
        return TouchModel(replace(self.config, decode=decode), self.net, self._eyes)

    def grey(self, pixels: Tensor) -> dict[str, Tensor]:
        """`[B, 3, *size] uint8` -> `grey`, `[B, *size] uint8`."""
        return {"grey": flow.grey(pixels, self.size)}

    @cached_property
    def usual(self) -> Eye | None:
        """Compares frames with those of training; None: the model does not know them."""
        return Eye(self.config.appearance) if self.config.appearance else None

    @property
    def past(self) -> int:
        """Frames before the judged one in a window."""
        return self.config.network.past

    @property
    def ahead(self) -> int:
        """Frames after the judged one in a window."""
        return self.config.network.ahead

    @property
    def width(self) -> int:
        """Length of a frame's vector."""
        return self.config.network.dim

    @property
    def parameters(self) -> int:
        """Number of trained parameters, without the encoder's."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def delay(self) -> int:
        """Frames after an event's own that must arrive before the event is known."""
        return self.config.network.ahead + self.config.decode.wait

    @torch.inference_mode()
    def encode(self, pixels: Tensor | None, boxes: Tensor, pairs: Tensor) -> Tensor:
        """Encode each frame as a vector, `[B, dim]`; arguments as in `Eyes`."""
        scene, hands = self._eyes(pixels, boxes, pairs)
        vectors: Tensor = self.net.look(scene, hands, present(boxes), boxes)
        return vectors

    @torch.inference_mode()
    def predict(self, window: Tensor, mask: Tensor) -> Tensor:
        """Predict the frame at `config.network.past` of each window `[B, L, dim]`.

        Returns:
            `[B, 2, 2, 2]`: score (0 to 1) and displacement (frames since the event), per hand and kind.
        """
        prediction, at = self.net.predict(window, mask), self.config.network.past
        return torch.stack([prediction.logits[:, at].sigmoid(), prediction.displacement[:, at]], 1)

    @torch.inference_mode()
    def decide(self, window: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the middle frame of windows of `predict`'s output; see `tocsin.models.touch.decode.decided`."""
        return decided(window, mask, self.config.decode)

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is created if missing."""
        store(self.net, self.config, directory)


def load(directory: Path | str = SHIPPED, device: str = "auto") -> TouchModel:
    """Load a model. The network is small and runs on the CPU; the encoder runs on `device`.

    Raises:
        ValueError: the model does not fit the installed encoder.
    """
    config = TouchConfig.load(Path(directory))
    eyes = Eyes(config.eye, device)
    net = TouchNet(config.network, scene=eyes.scene, hands=eyes.hands)
    restore(net, Path(directory))
    return TouchModel(config, net, eyes)
