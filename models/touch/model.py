"""A trained model of touches: frames and boxes in, and how likely each hand makes contact or lets go in each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.touch.config import EyeConfig, TouchConfig
from models.touch.decode import peak
from models.touch.hands import crops, present
from models.touch.network import Tokens, TouchNet
from models.trained import WEIGHTS_FILE
from models.vision.encoder import load as encoder

SHIPPED = Path(__file__).parent / "weights" / "table"


class Eyes:
    """The frozen encoder, over whole frames and over hands.

    Args:
        config: what it looks at.
        device: see `models.trained.placed`.

    Raises:
        ValueError: there is no such encoder, or it is another one than the config's.
    """

    def __init__(self, config: EyeConfig, device: str = "auto") -> None:
        self._scene = encoder(
            config.source, size=(config.scene_height, config.scene_width), device=device, layer=config.scene_layer
        )
        self._hands = encoder(config.source, size=(config.crop, config.crop), device=device, layer=config.hands_layer)
        if config.version not in ("", self._scene.version):
            raise ValueError(
                f"the model was trained on encoder {config.version}, got {self._scene.name} {self._scene.version}; take "
                "that one, or train the model on this one"
            )
        self.config = replace(config, version=self._scene.version)
        self.scene, self.hands = (Tokens(eye.width, eye.grid) for eye in (self._scene, self._hands))

    def __call__(self, pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Look at frames, and at the hands that are there.

        Args:
            pixels: `[B, 3, H, W] uint8`.
            boxes: `[B, 2, 4] float32`, as of `models.touch.hands.crops`.

        Returns:
            The tokens of the scene, `[B, N, C1]`, and of the hands, `[B, 2, M, C2]`, zeros of a hand that is not there.
        """
        c, there = self.config, present(boxes)
        small = F.interpolate(pixels.float(), (c.scene_height, c.scene_width), mode="area").round().to(torch.uint8)
        seen = self._hands(crops(pixels, boxes, size=c.crop, enlarge=c.enlarged)[there]).tokens
        hands = seen.new_zeros(*there.shape, *seen.shape[1:])
        hands[there] = seen
        return self._scene(small).tokens, hands


class TouchModel:
    """Encoder and network in one.

    Args:
        config: its encoder's version says which weights the network was trained on.
        net: set to evaluation, and frozen.
        eyes: the encoder.
    """

    def __init__(self, config: TouchConfig, net: TouchNet, eyes: Eyes) -> None:
        self.config = replace(config, eye=eyes.config)
        self.net, self._eyes = net.eval().requires_grad_(False), eyes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames that it judges."""
        return self.config.eye.height, self.config.eye.width

    @property
    def parameters(self) -> int:
        """Number of trained parameters, without the encoder's."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def delay(self) -> int:
        """Frames after an event's own that must have come before it is known."""
        return self.config.network.ahead + self.config.decode.wait

    @torch.inference_mode()
    def look(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """`[B, 3, H, W] uint8` and `[B, 2, 4]`, NaN where no hand is, to a vector a frame: `[B, dim]`."""
        scene, hands = self._eyes(pixels, boxes)
        seen: Tensor = self.net.look(scene, hands, present(boxes), boxes)
        return seen

    @torch.inference_mode()
    def judge(self, window: Tensor, there: Tensor) -> Tensor:
        """What windows `[B, L, dim]` say of their own frames.

        Returns:
            `[B, 2, 2, 2]`: score (0 to 1) and displacement (frames since the event), a hand and a kind each.
        """
        said, at = self.net.judge(window, there), self.config.network.past
        return torch.stack([said.logits[:, at].sigmoid(), said.displacement[:, at]], 1)

    @torch.inference_mode()
    def decide(self, window: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """What windows `[B, 2 w + 1, 2, 2, 2]` of `judge` say of their middle frames, w = `config.decode.wait`.

        Returns:
            Decoded scores, and whether there is an event, `[B, 2, 2]` each, a hand and a kind.
        """
        c = self.config.decode
        scores, displacement = window.unbind(2)
        decoded, highest = peak(scores, displacement, there, radius=c.radius, apart=c.apart)
        return decoded, highest & (decoded >= decoded.new_tensor(c.thresholds))

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is made if missing."""
        directory.mkdir(parents=True, exist_ok=True)
        self.config.save(directory)
        save_file({name: t.contiguous() for name, t in self.net.state_dict().items()}, directory / WEIGHTS_FILE)


def load(directory: Path | str = SHIPPED, device: str = "auto") -> TouchModel:
    """Read a model; the network, small, runs on the CPU, the encoder on `device`.

    Raises:
        ValueError: it does not fit the encoder that is here.
    """
    config = TouchConfig.load(Path(directory))
    eyes = Eyes(config.eye, device)
    net = TouchNet(config.network, scene=eyes.scene, hands=eyes.hands)
    net.load_state_dict(load_file(Path(directory) / WEIGHTS_FILE))
    return TouchModel(config, net, eyes)
