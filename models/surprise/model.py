"""A trained surprise model: frames in, the surprise of each place of each frame out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from tocsin.models import files
from tocsin.models.surprise import detector
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.detector import Verdict, Watch
from tocsin.models.surprise.motion import Motion
from tocsin.models.surprise.network import Expected, Predictor, Seen, surprise
from tocsin.models.surprise.triage import CALM, Triage, evidence
from tocsin.models.trained import CONFIG_FILE, WEIGHTS_FILE
from tocsin.models.vision.encoder import Encoder
from tocsin.models.vision.encoder import load as encoder

TRIAGE = "triage."
"""Prefix of the names of its weights."""
SHIPPED = Path(__file__).parent / "weights" / "dives"


class Memory(NamedTuple):
    """The model's state for B cameras.

    Args:
        seen: the predictor's state.
        watch: the detector's state.
        adapter: `[B, C, rank]`, each camera's adapter.
        suspects: `[B, memory, h, w]`, triage's state.
    """

    seen: Seen
    watch: Watch
    adapter: Tensor
    suspects: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, `[B, ...]` each."""
        return {**self.seen._asdict(), **self.watch._asdict(), "adapter": self.adapter, "suspects": self.suspects}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Memory:
        """The inverse of `tensors`."""
        seen, watch = ([tensors[name] for name in kind._fields] for kind in (Seen, Watch))
        return cls(Seen(*seen), Watch(*watch), tensors["adapter"], tensors["suspects"])


class SurpriseModel:
    """Encoder, predictor, triage and detector in one.

    Args:
        config: its encoder's version names the weights that the predictor was trained on.
        predictor: is set to evaluation mode and frozen.
        eye: the encoder.
        triage: as in the config; is set to evaluation mode and frozen.

    Raises:
        ValueError: the predictor was trained on another encoder.
    """

    def __init__(
        self, config: SurpriseConfig, predictor: Predictor, eye: Encoder, triage: Triage | None = None
    ) -> None:
        if config.encoder.version not in ("", eye.version):
            raise ValueError(
                f"the model was trained on encoder {config.encoder.version}, got {eye.name} {eye.version}; use that one, "
                "or train the model on this one"
            )
        self.config = replace(config, encoder=replace(config.encoder, version=eye.version))
        self.predictor, self._eye = predictor.eval().requires_grad_(False), eye
        self.triage = triage and triage.eval().requires_grad_(False)
        self._top = max(1, round(config.top * eye.grid[0] * eye.grid[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames that it scores."""
        return self._eye.size

    @property
    def eye(self) -> Encoder:
        """The encoder whose tokens it scores."""
        return self._eye

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places in a frame."""
        return self._eye.grid

    @property
    def parameters(self) -> int:
        """Number of trained parameters, without the encoder's."""
        networks = [self.predictor, *([self.triage] if self.triage else [])]
        return sum(p.numel() for network in networks for p in network.parameters())

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W] uint8` -> `tokens`, `[B, C, h, w]`, whitened."""
        return {"tokens": self.whitened(self._eye(pixels).tokens)}

    def whitened(self, tokens: Tensor) -> Tensor:
        """The encoder's tokens `[B, N, D]` as the predictor takes them, `[B, C, h, w]`."""
        return self.predictor.whitened(tokens, self.grid)

    def blank(self, count: int) -> Memory:
        """The state of `count` cameras before their first frames."""
        c = self.config
        adapter = torch.zeros(count, c.network.tokens, c.rank)
        suspects = torch.zeros(count, c.triage.memory if c.triage else 1, *self.grid)
        return Memory(self.predictor.blank(count, self.grid), detector.blank(count, c.detector), adapter, suspects)

    @torch.inference_mode()
    def __call__(self, memory: Memory, tokens: Tensor, motion: Motion) -> tuple[Tensor, Verdict, Memory]:
        """Score each camera's next frame.

        Args:
            tokens: `[B, C, h, w]`, from `encode`.
            motion: from the frame before to this one.

        Returns:
            The surprise of each place, `[B, h, w]`; the verdict on the frame; and the new state.
            Surprise and verdict are 0 for a camera's first frame.
        """
        c, first = self.config, memory.seen.known == 0
        expected, moved, basis = self.predictor.expect(memory.seen, motion, memory.adapter)
        if self.triage:
            logits, suspects = self.triage(memory.suspects, evidence(expected, tokens), motion.warp)
            suspects = torch.where(_like(first, suspects), memory.suspects, suspects)
            places, score = F.softplus(logits), F.softplus(self.triage.score(logits))
        else:
            places, suspects = surprise(expected, tokens, cosine=c.cosine), memory.suspects
            flat = places.flatten(1)
            score = flat.topk(self._top, 1).values.mean(1) / (flat.median(1).values + CALM)
        places, score = places.masked_fill(first[:, None, None], 0.0), score.masked_fill(first, 0.0)
        verdict, watched = detector.watch(memory.watch, score, c.detector)
        watched = Watch(
            *(torch.where(_like(first, new), old, new) for old, new in zip(memory.watch, watched, strict=True))
        )
        verdict = Verdict(*(value.masked_fill(first, 0) for value in verdict))
        usual = ~(verdict.novel | first)
        adapter = memory.adapter + c.rate * usual[:, None, None] * _step(expected, tokens, basis)
        return places, verdict, Memory(self.predictor.update(moved, tokens), watched, adapter, suspects)

    def begin_anew(self, memory: Memory, where: Tensor) -> Memory:
        """Reset predictor and triage of the cameras in `where` (`[B]` bool) after a lapse, and end their events.

        The usual scores and the adapters are kept.
        """
        if not where.any():
            return memory
        blank = self.predictor.blank(len(where), self.grid)
        seen = Seen(*(torch.where(_like(where, new), new, old) for old, new in zip(memory.seen, blank, strict=True)))
        novel = memory.watch.novel.masked_fill(where, 0.0)
        suspects = memory.suspects.masked_fill(_like(where, memory.suspects), 0.0)
        return memory._replace(seen=seen, watch=memory.watch._replace(novel=novel), suspects=suspects)

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is made if missing."""
        weights = dict(self.predictor.state_dict())
        weights |= {f"{TRIAGE}{name}": t for name, t in self.triage.state_dict().items()} if self.triage else {}
        whole = save({name: t.contiguous() for name, t in weights.items()})
        files.write({directory / CONFIG_FILE: files.dumped(self.config), directory / WEIGHTS_FILE: whole})


def load(directory: Path | str = SHIPPED, device: str = "auto") -> SurpriseModel:
    """Read a model.

    The encoder runs on `device`. The predictor is tiny and recurrent, so it runs on the CPU.

    Raises:
        ValueError: the model was trained on another encoder than the one found here.
    """
    config = SurpriseConfig.load(Path(directory))
    weights = files.read_weights(Path(directory) / WEIGHTS_FILE)
    predictor = Predictor(config.network, width=len(weights["centre"]), rank=config.rank)
    predictor.load_state_dict({name: t for name, t in weights.items() if not name.startswith(TRIAGE)})
    triage = None
    if config.triage:
        triage = Triage(config.triage, tokens=config.network.tokens, compensates=config.network.compensates)
        triage.load_state_dict({n.removeprefix(TRIAGE): t for n, t in weights.items() if n.startswith(TRIAGE)})
    e = config.encoder
    eye = encoder(e.source, size=(e.height, e.width), device=device, layer=e.layer, merge=e.merge)
    return SurpriseModel(config, predictor, eye, triage)


def _step(expected: Expected, tokens: Tensor, basis: Tensor) -> Tensor:
    """The update of each camera's adapter at rate 1, `[B, C, rank]`: normalised least mean squares over the places of a frame.

    Args:
        basis: `[B, rank, h, w]`, the adapter's input.
    """
    error = (tokens - expected.mean).clamp(-3, 3)
    power = basis.square().sum(1).mean((1, 2)).clamp(min=1e-3)
    return error.flatten(2) @ basis.flatten(2).mT / (power * error[0, 0].numel())[:, None, None]


def _like(mask: Tensor, other: Tensor) -> Tensor:
    """Reshape a mask `[B]` to as many dimensions as `other` has."""
    return mask.view(-1, *[1] * (other.dim() - 1))
