"""A trained RUL model that predicts from raw readings."""

from __future__ import annotations

import copy
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from tocsin.models.adapters import Sites, number_of
from tocsin.models.rul.config import RulConfig
from tocsin.models.rul.data import Lives, lives
from tocsin.models.rul.explainer import UNITS, Explainer
from tocsin.models.rul.interval import Interval
from tocsin.models.rul.network import FusionNetwork, Inputs, build
from tocsin.models.rul.reference import Reference
from tocsin.models.rul.samples import Samples, remembered, windowed
from tocsin.models.rul.scaling import Scaling
from tocsin.models.trained import moved, placed, restore, store

WEIGHTS = Path(__file__).parent / "weights"
FD001 = WEIGHTS / "fd001"


class Parts(nn.Module):
    """The parts of a model with stored weights: network, scaling, interval, explanations, and the distribution of its readings."""

    def __init__(self, config: RulConfig) -> None:
        super().__init__()
        channels = len(config.features)
        self.scaling = Scaling(settings=len(config.settings), regimes=config.regimes, features=channels)
        self.network = build(config)
        self.interval = Interval(cap=config.cap)
        self.explainer = Explainer(steps=len(config.steps), channels=channels)
        self.reference = Reference(regimes=config.regimes, features=channels)


class RulModel:
    """Predicts RUL, an interval and an explanation for each reading, from what the stream remembers of an asset's life.

    Args:
        config: of the model.
        parts: with trained weights; moved to `device` and set to evaluation mode.
        device: on `cuda` the networks run under bfloat16 autocast, elsewhere in float32.
        sites: the adapters of sites; None: there are none.
    """

    def __init__(self, config: RulConfig, parts: Parts, device: torch.device, sites: Sites | None = None) -> None:
        self.config, self.device, self.sites = config, device, sites
        if sites:
            sites.adapters.to(device).eval()
        self.scaling = copy.deepcopy(parts.scaling)
        self.reference = copy.deepcopy(parts.reference)
        """Both on the CPU."""
        self.parts = parts.to(device).eval().requires_grad_(False)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the arguments of a call, for the pipeline."""
        read = ("sums", "latest", "age") if self.config.model == "fading" else ("window", "age")
        return (*read, *(["slots"] if self.config.context else []), *(["site"] if self.sites else []))

    def __call__(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Predict a batch; B may be 0.

        Args:
            tensors: as named in `tensors`. `sums` `[B, K, M, C + 1]`, see `samples.remembered`; `latest` `[B, S + C]`, the reading
                itself; `window` `[B, T, S + C]`, see `samples.windowed`; `age` `[B]`, the order column; `slots`
                `[B, S, 3 + N] float32`, see `Inputs`; `site` `[B] int64`, the number of the row's site, -1 for none.

        Returns:
            `rul`, `rul_low`, `rul_high` `[B] float32` in `[0, cap]`, with `rul` between the ends. `in_domain` `[B] bool`: whether
            training has seen the like; elsewhere the interval is all of `[0, cap]`. `explanation` `[B, L * C] int8`: how much each
            sensor at each step moved the RUL, in thousandths of the cap, step by step. Of a `fusion` model also `trajectory`
            `[B, C] float32`, see `FusionNetwork.both`. On the tensors' device.

        Raises:
            ValueError: a shape is not the config's.
        """
        source = tensors[0].device
        self._check(tensors)
        scaling = self.parts.scaling
        with torch.inference_mode():
            given = {name: moved(t, self.device) for name, t in zip(self.tensors, tensors, strict=True)}
            age = given["age"]
            slots = given["slots"].float() if "slots" in given else age.new_zeros(len(age), 0, 3, dtype=torch.float32)
            if self.config.model == "fading":
                inputs, latest = remembered(given["sums"], age, slots, scaling), given["latest"]
            else:
                inputs, latest = windowed(given["window"], age, slots, self.config, scaling), given["window"][:, -1]
            site = given.get("site")
            own = self.sites.own_of(site, self._shared) if self.sites and site is not None else None
            judged = self._judge(inputs, scaling.is_known(latest, age, own), site, own)
            return {name: value.to(source) for name, value in judged.items()}

    def predict(self, known: Lives, *, batch: int = 1024) -> dict[str, Tensor]:
        """Predict every row of some lives, in batches; the values are those of a call."""
        return self.predict_rows(self.samples(known), torch.arange(len(known)), batch=batch)

    def samples(self, known: Lives) -> Samples:
        """The rows of some lives as the network sees them."""
        return Samples(known, self.config, self.scaling)

    def predict_rows(self, samples: Samples, rows: Tensor, *, batch: int = 1024) -> dict[str, Tensor]:
        """Predict the rows at `rows` `[B]`, as `predict` does all."""
        in_domain = self.scaling.is_known(samples.lives.rows[rows], samples.lives.age[rows])
        with torch.inference_mode():
            found = [
                self._judge(Inputs(*(t.to(self.device) for t in samples.at(index))), known)
                for index, known in zip(rows.split(batch), in_domain.split(batch), strict=True)
            ]
        return {name: torch.cat([part[name].cpu() for part in found]) for name in found[0]}

    def judge(self, table: pl.DataFrame) -> pl.DataFrame:
        """The readings of a table, sorted by key and order, with the columns of a prediction.

        Args:
            table: the config's columns.
        """
        found = self.predict(lives(table, self.config.unlabelled))
        columns = [pl.Series(name, value.numpy()) for name, value in found.items()]
        return table.sort(self.config.key, self.config.order).with_columns(columns)

    @property
    def _shared(self) -> dict[str, Tensor]:
        """What a site has of its own beside its adapter, for rows without one."""
        return {**self.parts.scaling.limits, "low": self.parts.interval.low, "high": self.parts.interval.high}

    def at(self, site: str) -> RulModel:
        """The model of one site: its adapter is merged into the weights.

        Raises:
            ValueError: the model has no such site.
        """
        sites, number = number_of(self.sites, site)
        parts = copy.deepcopy(self.parts).cpu()
        parts.network.load_state_dict(sites.adapters.merged(number), strict=False)
        for name, value in sites.own.items():
            setattr(parts.interval if name in ("low", "high") else parts.scaling, name, value[number])
        return RulModel(self.config, parts, self.device)

    def save(self, directory: Path) -> None:
        """Write the model's files into `directory`, which is created if missing."""
        store(self.parts, self.config, directory)
        Sites.store(self.sites, directory)

    @property
    def parameters(self) -> int:
        """Number of trained parameters of the network, without the explanations'."""
        return sum(p.numel() for p in self.parts.network.parameters())

    def _judge(
        self, inputs: Inputs, in_domain: Tensor, site: Tensor | None = None, own: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        cap, parts, network = self.config.cap, self.parts, self.parts.network
        more = dict[str, Tensor]()
        if not len(inputs.age):  # LSTM kernels refuse an empty batch
            shares, maps = inputs.steps.new_zeros(0, 3), inputs.steps
            if isinstance(network, FusionNetwork):
                more["trajectory"] = inputs.steps[:, 0]
        else:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
                if self.sites and site is not None:
                    shares = self.sites.adapters(site, inputs)
                    if isinstance(network, FusionNetwork):
                        more["trajectory"] = network.both(inputs)[1]
                elif isinstance(network, FusionNetwork):
                    shares, more["trajectory"] = network.both(inputs)
                else:
                    shares = network(inputs)
                shares, maps = shares.float(), parts.explainer(inputs).float()
        rul, low, high = parts.interval.ends(shares, own)
        in_domain = in_domain.to(rul.device)
        return {
            "rul": rul,
            "rul_low": torch.where(in_domain, low, 0),
            "rul_high": torch.where(in_domain, high, cap),
            "in_domain": in_domain,
            "explanation": (maps.flatten(1) * UNITS).round().clamp(-127, 127).to(torch.int8),
            **{name: tensor.float() for name, tensor in more.items()},
        }

    def _check(self, tensors: tuple[Tensor, ...]) -> None:
        config = self.config
        columns = len(config.columns)
        shapes = {
            "sums": (config.regimes, len(config.steps), len(config.features) + 1),
            "latest": (columns,),
            "window": (config.window, columns),
            "age": (),
            "site": (),
        }
        if len(tensors) != len(self.tensors):
            raise ValueError(f"got {len(tensors)} tensors, expected {', '.join(self.tensors)}")
        for name, tensor in zip(self.tensors, tensors, strict=True):
            if name == "slots":
                shapes[name] = (*tensor.shape[1:2], 3 + len(config.context_numbers))  # any number of slots
            if tuple(tensor.shape[1:]) != shapes[name]:
                expected = ", ".join(map(str, ("B", *shapes[name])))
                raise ValueError(f"{name} is {list(tensor.shape)}, expected [{expected}]")


def load(directory: Path | str = FD001, device: str = "auto") -> RulModel:
    """Load a model that `RulModel.save` or training wrote.

    Args:
        directory: holds `config.json` and `model.safetensors`; the default is the shipped FD001 model.
        device: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes the first GPU if there is one.
    """
    config = RulConfig.load(Path(directory))
    parts = Parts(config)
    restore(parts, Path(directory), later=("reference.",))
    return RulModel(config, parts, placed(device), Sites.load(Path(directory), parts.network))
