"""Low-rank adapters: one frozen network serves many sites, and each row of a batch uses the adapter of its own site."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tocsin.operators.pooling import AdditiveAttentionPool
from tocsin.operators.regimes import RegimeFusion
from tocsin.operators.shapes import match

OPAQUE = (AdditiveAttentionPool, RegimeFusion)
"""Modules that read their layers' weights themselves, or call a layer with what all rows share: these layers are not adapted."""
Kind = Literal["int8", "nf4"]
BLOCK = 64
"""Weights that share a scale."""
EDGE = 0.968
"""Quantile of the outermost levels of NF4."""


def low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """What each row's adapter adds to a linear map: `up (down x)`, without the matrix `up down`.

    Source: low-rank adaptation, as used by nextAI (arXiv 2604.09034) to fine-tune a language model. An adapter for each row of one
    batch, and its use for sensors, are this project's.

    Args:
        x: `[B, I]` or `[B, T, I]`.
        down: `[B, R, I]`, of each row's site.
        up: `[B, O, R]`.

    Returns:
        `[B, O]` or `[B, T, O]`.
    """
    match(down=(down, "B R I"), up=(up, "B O R"))
    if x.dim() == 2:
        # On a CPU, thousands of products with one column take three times as long as a batched product.
        return (up * (down * x.unsqueeze(1)).sum(-1).unsqueeze(1)).sum(-1)
    return torch.bmm(torch.bmm(x, down.transpose(1, 2)), up.transpose(1, 2))


class Adapters(nn.Module):
    """The adapters of a network, one a site. A row of site -1 is judged by the network alone.

    A weight `W [O, ...]` of a site becomes `W + up down`, with `down [R, I]` and `up [O, R]`, where I is the size of a row of W. A
    bias gets an offset. Each adapter begins as the network itself, since `up` and the offsets are 0.

    Args:
        network: frozen, and shared by all sites; its linear layers, 1-D convolutions and LSTMs (one layer, one direction, batch
            first) can be adapted.
        names: parameters of the network that are adapted, such as `head.0.weight`.
        rank: R.
        sites: number of sites S.

    Raises:
        ValueError: a parameter can't be adapted.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], *, rank: int = 1, sites: int = 1) -> None:
        super().__init__()
        self.names, self.rank, self.sites = tuple(names), rank, sites
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._site: Tensor | None = None
        self.values = nn.ParameterDict()
        shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
        for name in self.names:
            place, _, own = name.rpartition(".")
            if name not in shapes or not _is_adaptable(network, place):
                raise ValueError(f"{name}: expected a weight or bias of a linear layer, a convolution or a plain LSTM")
            if own.startswith("bias"):
                self.values[_key(name, "offset")] = nn.Parameter(torch.zeros(sites, *shapes[name]))
                continue
            outputs, inputs = shapes[name][0], shapes[name][1:].numel()
            self.values[_key(name, "down")] = nn.Parameter(torch.randn(sites, rank, inputs) / inputs**0.5)
            self.values[_key(name, "up")] = nn.Parameter(torch.zeros(sites, outputs, rank))
        for place in {name.rpartition(".")[0] for name in self.names}:
            parent, _, last = place.rpartition(".")
            setattr(self.network.get_submodule(parent), last, self._adapted(place))

    def forward(self, site: Tensor, *inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """The network's output for its `inputs`; `site` is `[B] int64`, from -1 to S - 1."""
        self._site = site
        try:
            out: Tensor = self.network(*inputs)
        finally:
            self._site = None
        return out

    def of(self, name: str, part: str) -> Tensor | None:
        """A part of each row's adapter, zero for a row without one; None: the parameter is not adapted.

        Args:
            part: `down` `[B, R, I]`, `up` `[B, O, R]` or `offset` `[B, ...]`.
        """
        key = _key(name, part)
        if key not in self.values or self._site is None:
            return None
        values = self.values[key][self._site.clamp_min(0)]
        if part == "down":  # `up` is zero
            return values
        return values.masked_fill((self._site < 0).reshape(-1, *[1] * (values.dim() - 1)), 0)

    def merged(self, site: int) -> dict[str, Tensor]:
        """A site's own parameters, by their names in the network."""
        found = {}
        for name in self.names:
            place, _, own = name.rpartition(".")
            parameter = self.network.get_submodule(place).get_submodule("module").get_parameter(own)
            if (offset := _key(name, "offset")) in self.values:
                found[name] = parameter + self.values[offset][site]
            else:
                up, down = (self.values[_key(name, part)][site] for part in ("up", "down"))
                found[name] = parameter + (up @ down).view_as(parameter)
        return found

    def unadapted(self) -> nn.Module:
        """A copy of the network that is shared."""
        network = copy.deepcopy(self.network)
        for place in {name.rpartition(".")[0] for name in self.names}:
            parent, _, last = place.rpartition(".")
            setattr(network.get_submodule(parent), last, network.get_submodule(place).get_submodule("module"))
        return network

    def quantise(self, kind: Kind) -> Self:
        """Store the weights of the shared linear layers and convolutions in fewer bits; see `quantised`."""
        _pack(self.network, kind)
        return self

    def _adapted(self, place: str) -> nn.Module:
        module = self.network.get_submodule(place)
        if isinstance(module, nn.Conv1d):
            return _Convolution(module, place, [self])
        return (_Lstm if isinstance(module, nn.LSTM) else _Linear)(module, place, [self])


def naive_adapters(adapters: Adapters, site: Tensor, *inputs: Tensor) -> Tensor:
    """`Adapters` row by row, each with its site's whole weights: the oracle of its tests."""
    network = adapters.unadapted()
    rows = []
    for row, own in enumerate(site.tolist()):
        changed = adapters.merged(own) if own >= 0 else {}
        rows.append(functional_call(network, changed, tuple(x[row : row + 1] for x in inputs)))
    return torch.cat(rows)


class _Adapted(nn.Module):
    """A module and its place in the network; `owner` is a list, so that torch does not count the adapters as a part."""

    def __init__(self, module: nn.Module, place: str, owner: list[Adapters]) -> None:
        super().__init__()
        self.module, self._place, self._owner = module, place, owner

    def _of(self, name: str, part: str) -> Tensor | None:
        return self._owner[0].of(f"{self._place}.{name}", part)

    def _added(self, x: Tensor, weight: str, bias: str) -> Tensor | float:
        """What the adapter adds to the map of `x` `[B, I]` or `[B, T, I]`."""
        added: Tensor | float = 0.0
        if (down := self._of(weight, "down")) is not None and (up := self._of(weight, "up")) is not None:
            added = low_rank(x, down.to(x.dtype), up.to(x.dtype))
        if (offset := self._of(bias, "offset")) is not None:
            added = added + (offset if x.dim() == 2 else offset.unsqueeze(1)).to(x.dtype)
        return added


class _Linear(_Adapted):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x) + self._added(x, "weight", "bias")
        return out


class _Convolution(_Adapted):
    def __init__(self, module: nn.Conv1d, place: str, owner: list[Adapters]) -> None:
        super().__init__(module, place, owner)
        if isinstance(module.padding, str) or module.groups > 1 or module.padding_mode != "zeros":
            raise ValueError(f"{place}: expected a convolution with zeros as padding, in numbers, and one group")
        self._padding, self._stride, self._dilation = module.padding[0], module.stride[0], module.dilation[0]
        self._spread = self._dilation * (module.kernel_size[0] - 1) + 1

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self._padding, self._padding))
        steps = padded.unfold(2, self._spread, self._stride)[..., :: self._dilation]  # [B, I, T, K]
        added = self._added(steps.transpose(1, 2).flatten(2), "weight", "bias")
        out: Tensor = self.module(x)
        return out + (added.transpose(1, 2) if isinstance(added, Tensor) else added)


class _Lstm(_Adapted):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        lstm = self.module
        assert isinstance(lstm, nn.LSTM)
        w_x, w_h, b_x, b_h = (
            lstm.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        given = F.linear(x, w_x, b_x) + self._added(x, "weight_ih_l0", "bias_ih_l0")
        hidden = x.new_zeros(x.shape[0], lstm.hidden_size)
        cell, states = hidden, []
        for now in given.unbind(1):
            gates = now + F.linear(hidden, w_h, b_h)
            gates = gates + self._added(hidden, "weight_hh_l0", "bias_hh_l0")
            enter, keep, new, leave = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states, dim=1), (hidden.unsqueeze(0), cell.unsqueeze(0))


def quantised(network: nn.Module, kind: Kind) -> nn.Module:
    """A copy of a network whose linear layers and convolutions have weights of 8 or 4 bits. They are unpacked in each call."""
    network = copy.deepcopy(network)
    _pack(network, kind)
    return network


def _pack(network: nn.Module, kind: Kind) -> None:
    for place, module in [*network.named_modules()]:
        if isinstance(module, nn.Linear | nn.Conv1d):
            parent, _, last = place.rpartition(".")
            setattr(network.get_submodule(parent), last, Quantised(module, kind))


class Quantised(nn.Module):
    """A linear layer or a convolution with a weight of few bits.

    The weight is cut into blocks of `BLOCK`, each scaled by its largest value. `int8` rounds to 255 steps, `nf4` to 16 levels that
    lie where a normal distribution has its quantiles, two to a byte.
    Source: the idea of NF4 is QLoRA's (arXiv 2305.14314); the levels here are computed, and their scales are not packed again.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, module: nn.Linear | nn.Conv1d, kind: Kind) -> None:
        super().__init__()
        self._kind, self._shape = kind, module.weight.shape
        flat = module.weight.detach().flatten().float()
        blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        scales = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
        if kind == "int8":
            codes = (blocks / scales * 127).round().to(torch.int8)
        else:
            nearest = (blocks.unsqueeze(-1) / scales.unsqueeze(-1) - nf4_levels()).abs().argmin(-1).to(torch.uint8)
            codes = nearest[:, ::2] * 16 + nearest[:, 1::2]
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = module.bias
        self._call = _linear if isinstance(module, nn.Linear) else module._conv_forward
        if isinstance(module, nn.Conv1d):
            module.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._call(x, self.weight.to(x.dtype), self.bias)
        return out

    @property
    def weight(self) -> Tensor:
        """The weight, unpacked."""
        if self._kind == "int8":
            blocks = self.codes.float() / 127
        else:
            both = torch.stack([self.codes // 16, self.codes % 16], dim=-1).flatten(1)
            blocks = nf4_levels().to(both.device)[both.long()]
        return (blocks * self.scales).flatten()[: self._shape.numel()].view(self._shape)


@cache
def nf4_levels() -> Tensor:
    """The 16 levels from -1 to 1, one of them 0: quantiles of a normal distribution, 7 below 0 and 8 above."""
    normal = torch.distributions.Normal(0.0, 1.0)
    below, above = (normal.icdf(torch.linspace(0.5, EDGE, n + 1))[1:] for n in (7, 8))
    return torch.cat([-below.flip(0) / below.max(), torch.zeros(1), above / above.max()])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def adaptable(network: nn.Module, *, share: float, rank: int = 1) -> list[str]:
    """Which parameters to adapt within a share of a network's: its first weight, then each bias that fits, from the input on.

    Sites differ most in what sensors read, and in the level of everything that follows from it.

    Args:
        share: largest size of an adapter, as a share of the network's parameters.
    """
    left = share * sum(p.numel() for p in network.parameters())
    found = list[str]()
    for place, module in network.named_modules():
        if not _is_adaptable(network, place):
            continue
        for name, parameter in module.named_parameters(prefix=place, recurse=False):
            is_bias = name.rpartition(".")[2].startswith("bias")
            size = parameter.numel() if is_bias else rank * (parameter.shape[0] + parameter[0].numel())
            if size <= left and is_bias == bool(found):
                found.append(name)
                left -= size
    return found


def _is_adaptable(network: nn.Module, place: str) -> bool:
    parts = place.split(".")
    owners = [network.get_submodule(".".join(parts[:n])) for n in range(len(parts))]
    if any(isinstance(owner, OPAQUE) for owner in owners):
        return False
    module = network.get_submodule(place)
    if isinstance(module, nn.LSTM):
        return (
            module.num_layers == 1
            and not module.bidirectional
            and module.batch_first
            and module.bias
            and not module.proj_size
        )
    return isinstance(module, nn.Linear | nn.Conv1d)


def _key(name: str, part: str) -> str:
    """A key of `nn.ParameterDict`, which takes no dots."""
    return f"{name.replace('.', '/')}|{part}"
