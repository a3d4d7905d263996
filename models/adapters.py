"""The adapters of sites, stored beside the network that they share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tocsin.models import files
from tocsin.operators.lora import Adapters, adaptable

SITES_FILE, ADAPTERS_FILE = "adapters.json", "adapters.safetensors"
SHARE = 0.02
"""Largest size of an adapter, as a share of the network's parameters."""
OWN = "own."


@dataclass(frozen=True)
class Sites:
    """The adapters of a network's sites.

    Args:
        names: of the sites, in the order of the adapters.
        adapters: one a site.
        own: what else is a site's own, such as the range of its readings, by name: `[S, ...]` each; the model says what it means.
    """

    names: tuple[str, ...]
    adapters: Adapters
    own: Mapping[str, Tensor] = field(default_factory=dict)

    def number(self, site: str) -> int:
        """A site's number.

        Raises:
            ValueError: the model has no such site.
        """
        if site not in self.names:
            known = ", ".join(self.names[:5]) + (", ..." if len(self.names) > 5 else "")
            raise ValueError(f"site {site}: expected one of {known}, got another; adapt the model to it first")
        return self.names.index(site)

    def own_of(self, site: Tensor, shared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is each row's site's own `[B, ...]`, by name; what is shared where a row has no site."""
        found = {}
        for name, value in shared.items():
            own = self.own[name].to(value.device)[site.clamp_min(0)]
            found[name] = torch.where((site < 0).reshape(-1, *[1] * value.dim()), value, own)
        return found

    def joined(self, site: str, one: Adapters, own: Mapping[str, Tensor]) -> Sites:
        """The same with one more site, or with another adapter of a site.

        Args:
            one: the site's adapter, the only one.
            own: of the site, without the dimension of sites.
        """
        names = self.names if site in self.names else (*self.names, site)
        adapters = Adapters(one.unadapted(), one.names, rank=one.rank, sites=len(names))

        def placed(old: Tensor, new: Tensor) -> Tensor:
            rows = list(old) + ([new] if len(names) > len(old) else [])
            rows[names.index(site)] = new
            return torch.stack(rows)

        with torch.no_grad():
            for key, value in adapters.values.items():
                value.copy_(placed(self.adapters.values[key], one.values[key][0]))
        return Sites(names, adapters, {name: placed(self.own[name], value) for name, value in own.items()})

    @classmethod
    def first(cls, site: str, one: Adapters, own: Mapping[str, Tensor]) -> Self:
        """The adapter of a model's first site; see `joined`."""
        return cls((site,), one, {name: value.unsqueeze(0) for name, value in own.items()})

    @property
    def size(self) -> int:
        """Number of parameters of one adapter."""
        return sum(p.numel() for p in self.adapters.values.values()) // len(self.names)

    def save(self, directory: Path) -> None:
        """Write `adapters.json` and `adapters.safetensors` into `directory`."""
        facts = {"sites": self.names, "parameters": self.adapters.names, "rank": self.adapters.rank}
        tensors = {key: value.detach().cpu().contiguous() for key, value in self.adapters.values.items()}
        tensors |= {f"{OWN}{name}": value.cpu().contiguous() for name, value in self.own.items()}
        content = (json.dumps(facts, indent=2) + "\n").encode()
        files.write({directory / ADAPTERS_FILE: save(tensors), directory / SITES_FILE: content})

    @staticmethod
    def store(sites: Sites | None, directory: Path) -> None:
        """Save a model's sites beside it. Without any, delete those of an earlier model, which another network would not fit."""
        if sites:
            sites.save(directory)
            return
        for name in (SITES_FILE, ADAPTERS_FILE):
            (directory / name).unlink(missing_ok=True)

    @classmethod
    def load(cls, directory: Path, network: nn.Module) -> Self | None:
        """Read what `save` wrote; None: the model in this folder has no sites.

        Raises:
            ValueError: the files are damaged, or belong to another network.
        """
        if not (directory / SITES_FILE).exists():
            return None
        facts, tensors = files.read_json(directory / SITES_FILE), files.read_weights(directory / ADAPTERS_FILE)
        names = tuple(facts["sites"])
        adapters = Adapters(network, facts["parameters"], rank=facts["rank"], sites=len(names))
        for key, value in adapters.values.items():
            if key not in tensors or tensors[key].shape != value.shape:
                got = list(tensors[key].shape) if key in tensors else "nothing"
                raise ValueError(
                    f"{directory / ADAPTERS_FILE}: expected {key} of shape {list(value.shape)}, got {got}; adapt again"
                )
            value.data = tensors[key]
        own = {name.removeprefix(OWN): t for name, t in tensors.items() if name.startswith(OWN)}
        return cls(names, adapters.requires_grad_(False), own)


class OneSite(nn.Module):
    """A network with the adapter of a single site, for training: only the adapter has gradients.

    Raises:
        ValueError: the network is too small for an adapter.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not (names := adaptable(network, share=SHARE)):
            size = sum(p.numel() for p in network.parameters())
            raise ValueError(
                f"expected a network with room for an adapter of {100 * SHARE:g} %, got one of {size} parameters; train on the site"
            )
        self.adapters = Adapters(network, names)

    def forward(self, inputs: Tensor | tuple[Tensor, ...]) -> Any:
        """The network's output with the site's adapter."""
        rows = inputs if isinstance(inputs, Tensor) else inputs[0]
        return self.adapters(torch.zeros(len(rows), dtype=torch.int64), inputs)

    def added(self, sites: Sites | None, site: str, own: Mapping[str, Tensor]) -> Sites:
        """A model's sites with this one; see `Sites.joined`."""
        adapters = self.adapters.requires_grad_(False)
        return sites.joined(site, adapters, own) if sites else Sites.first(site, adapters, own)


def number_of(sites: Sites | None, site: str) -> tuple[Sites, int]:
    """A model's sites, and the number of one of them.

    Raises:
        ValueError: the model has no such site.
    """
    if sites is None:
        raise ValueError(f"site {site}: expected a model with adapters, got one without; adapt it to the site first")
    return sites, sites.number(site)
