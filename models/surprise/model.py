"""A trained surprise model: frames in, the surprise of each place of each frame out."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from tocsin.models import files
from tocsin.models.states import rowwise, select
from tocsin.models.surprise import detector
from tocsin.models.surprise.config import SurpriseConfig
from tocsin.models.surprise.detector import DetectorState, Verdict
from tocsin.models.surprise.motion import Motion
from tocsin.models.surprise.network import Expected, Predictor, PredictorState, surprise
from tocsin.models.surprise.triage import CALM, Triage, evidence
from tocsin.models.trained import CONFIG_FILE, WEIGHTS_FILE, fill
from tocsin.models.vision.appearance import Eye
from tocsin.models.vision.encoder import Encoder
from tocsin.models.vision.encoder import load as load_encoder

TRIAGE = "triage."
"""Prefix of the names of its weights."""
SHIPPED = Path(__file__).parent / "weights" / "dives"
Encoding = Callable[[Tensor], dict[str, Tensor]]
"""`[B, 3, H, W] uint8` -> `tokens`, as `SurpriseModel.encode`."""


class Memory(NamedTuple):
    """The model's state for B cameras.

    Args:
        predictor: the predictor's state.
        detector: the detector's state.
        adapter: `[B, C, rank]`, each camera's adapter.
        suspects: `[B, heads * memory, h, w]`, triage's state.
    """

    predictor: PredictorState
    detector: DetectorState
    adapter: Tensor
    suspects: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, `[B, ...]` each."""
        return {
            **self.predictor._asdict(),
            **self.detector._asdict(),
            "adapter": self.adapter,
            "suspects": self.suspects,
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Memory:
        """The inverse of `tensors`."""
        predictor, detector = ([tensors[name] for name in kind._fields] for kind in (PredictorState, DetectorState))
        return cls(PredictorState(*predictor), DetectorState(*detector), tensors["adapter"], tensors["suspects"])


class SurpriseModel:
    """Encoder, predictor, triage and detector in one.

    Args:
        config: its encoder's version names the weights that the predictor was trained on.
        predictor: is set to evaluation mode and frozen.
        encoder: of the frames.
        triage: as in the config; is set to evaluation mode and frozen.

    Raises:
        ValueError: the predictor was trained on another encoder.
    """

    def __init__(
        self, config: SurpriseConfig, predictor: Predictor, encoder: Encoder, triage: Triage | None = None
    ) -> None:
        if config.encoder.version not in ("", encoder.version):
            raise ValueError(
                f"the model was trained on encoder {config.encoder.version}, got {encoder.name} {encoder.version}; "
                "use that one, or train the model on this one"
            )
        self.config = replace(config, encoder=replace(config.encoder, version=encoder.version))
        self.predictor, self._encoder = predictor.eval().requires_grad_(False), encoder
        self.triage = triage and triage.eval().requires_grad_(False)
        self._top = max(1, round(config.top * encoder.grid[0] * encoder.grid[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames that it scores."""
        return self._encoder.size

    @property
    def encoder(self) -> Encoder:
        """The encoder whose tokens it scores."""
        return self._encoder

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of places in a frame."""
        return self._encoder.grid

    @cached_property
    def usual(self) -> Eye | None:
        """Compares frames with those of training; None: the model does not know them."""
        return Eye(self.config.appearance) if self.config.appearance else None

    @property
    def parameters(self) -> int:
        """Number of trained parameters, without the encoder's."""
        networks = [self.predictor, *([self.triage] if self.triage else [])]
        return sum(p.numel() for network in networks for p in network.parameters())

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """`[B, 3, H, W] uint8` -> `tokens`, `[B, C, h, w]`, whitened."""
        return {"tokens": self.whitened(self._encoder(pixels).tokens)}

    def whitened(self, tokens: Tensor) -> Tensor:
        """The encoder's tokens `[B, N, D]` as the predictor takes them, `[B, C, h, w]`."""
        return self.predictor.whitened(tokens, self.grid)

    def blank(self, count: int) -> Memory:
        """The state of `count` cameras before their first frames."""
        c = self.config
        adapter = torch.zeros(count, c.network.tokens, c.rank)
        suspects = torch.zeros(count, c.triage.state if c.triage else 1, *self.grid)
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
        c, first = self.config, memory.predictor.known == 0
        expected, moved, basis = self.predictor.expect(memory.predictor, motion, memory.adapter)
        if self.triage:
            logits, suspects = self.triage(memory.suspects, evidence(expected, tokens), motion.warp)
            suspects = torch.where(rowwise(first, suspects), memory.suspects, suspects)
            places, score = F.softplus(logits), F.softplus(self.triage.score(logits))
        else:
            places, suspects = surprise(expected, tokens, cosine=c.cosine), memory.suspects
            flat = places.flatten(1)
            score = flat.topk(self._top, 1).values.mean(1) / (flat.median(1).values + CALM)
        places, score = places.masked_fill(first[:, None, None], 0.0), score.masked_fill(first, 0.0)
        verdict, detector_state = detector.step(memory.detector, score, c.detector)
        detector_state = select(first, memory.detector, detector_state)
        verdict = Verdict(*(value.masked_fill(first, 0) for value in verdict))
        usual = ~(verdict.novel | first)
        adapter = memory.adapter + c.rate * usual[:, None, None] * _step(expected, tokens, basis)
        return places, verdict, Memory(self.predictor.update(moved, tokens), detector_state, adapter, suspects)

    def reset(self, memory: Memory, where: Tensor) -> Memory:
        """Reset predictor and triage of the cameras in `where` (`[B]` bool) after a lapse, and end their events.

        The usual scores and the adapters are kept.
        """
        if not where.any():
            return memory
        blank = self.predictor.blank(len(where), self.grid)
        predictor = select(where, blank, memory.predictor)
        novel = memory.detector.novel.masked_fill(where, 0.0)
        suspects = memory.suspects.masked_fill(rowwise(where, memory.suspects), 0.0)
        return memory._replace(predictor=predictor, detector=memory.detector._replace(novel=novel), suspects=suspects)

    def tuned(self, *, level: float | None = None, factor: float | None = None) -> SurpriseModel:
        """The same networks with another sensitivity.

        Args:
            level: the lowest score at which an event begins; None: as it is.
            factor: deviations above a camera's usual score at which an event begins; None: as it is.
        """
        d = self.config.detector
        d = replace(d, least=d.least if level is None else level, factor=d.factor if factor is None else factor)
        return SurpriseModel(replace(self.config, detector=d), self.predictor, self._encoder, self.triage)

    def uncompensated(self) -> SurpriseModel:
        """The same weights with the camera's motion taken away: nothing is warped by it, and no network is told of it."""
        config = replace(self.config, network=replace(self.config.network, compensates=False))
        predictor, triage = deepcopy(self.predictor), deepcopy(self.triage)
        predictor.config = config.network
        if triage:
            triage.compensates = False
        return SurpriseModel(config, predictor, self._encoder, triage)

    def save(self, directory: Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is made if missing."""
        weights = dict(self.predictor.state_dict())
        weights |= {f"{TRIAGE}{name}": t for name, t in self.triage.state_dict().items()} if self.triage else {}
        data = save({name: t.contiguous() for name, t in weights.items()})
        files.write({directory / CONFIG_FILE: files.dumped(self.config), directory / WEIGHTS_FILE: data})


def load(directory: Path | str = SHIPPED, device: str = "auto") -> SurpriseModel:
    """Read a model.

    The encoder runs on `device`. The predictor is tiny and recurrent, so it runs on the CPU.

    Raises:
        ValueError: the model was trained on another encoder than the one found here.
    """
    config = SurpriseConfig.load(Path(directory))
    weights = files.read_weights(Path(directory) / WEIGHTS_FILE)
    predictor = Predictor(config.network, width=len(weights["centre"]), rank=config.rank)
    fill(predictor, {name: t for name, t in weights.items() if not name.startswith(TRIAGE)}, Path(directory))
    triage = None
    if config.triage:
        triage = Triage(config.triage, tokens=config.network.tokens, compensates=config.network.compensates)
        triage.load_state_dict(_heads({n: t for n, t in weights.items() if n.startswith(TRIAGE)}, config.triage.heads))
    e = config.encoder
    encoder = load_encoder(e.source, size=(e.height, e.width), device=device, layer=e.layer, merge=e.merge)
    return SurpriseModel(config, predictor, encoder, triage)


def _heads(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The weights of triage. An earlier version's had one head: each of `count` is that one, so that all states have one shape."""
    names = {name: name.removeprefix(TRIAGE) for name in weights}
    if any(name.startswith("heads.") for name in names.values()):
        return {name: weights[stored] for stored, name in names.items()}
    return {f"heads.{head}.{name}": weights[stored] for stored, name in names.items() for head in range(count)}


def _step(expected: Expected, tokens: Tensor, basis: Tensor) -> Tensor:
    """The update of each camera's adapter at rate 1, `[B, C, rank]`: normalised least mean squares over the places of a frame.

    Args:
        basis: `[B, rank, h, w]`, the adapter's input.
    """
    error = (tokens - expected.mean).clamp(-3, 3)
    power = basis.square().sum(1).mean((1, 2)).clamp(min=1e-3)
    return error.flatten(2) @ basis.flatten(2).mT / (power * error[0, 0].numel())[:, None, None]
