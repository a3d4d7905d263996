"""Adapters of many sites in one batch against the shared network alone, and against each site's rows by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.cases.meter import Row, compare
from tocsin.operators.lora import Adapters, adaptable, quantised

BATCH = 4096


def rows(*, quick: bool) -> Iterator[Row]:
    network = nn.Sequential(nn.Linear(115, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    x = torch.randn(BATCH, 115)
    for sites in (10,) if quick else (1, 10, 100, 1000):
        adapters = Adapters(network, adaptable(network, share=0.02), sites=sites)
        for value in adapters.values.values():
            nn.init.normal_(value, std=0.1)
        site = torch.randint(sites, (BATCH,))
        merged = [adapters.merged(n) for n in range(sites)]

        def ours(adapters=adapters, site=site) -> Tensor:
            return adapters(site, x)

        def alone() -> Tensor:
            return network(x)

        def apart(merged=merged, site=site) -> Tensor:
            out = torch.empty(BATCH, 1)
            for number, weights in enumerate(merged):
                own = site == number
                out[own] = functional_call(network, weights, (x[own],))
            return out

        size = f"{BATCH:,} rows, {sites:,} sites"
        each = sum(p.numel() for p in adapters.values.values()) * 4 / sites
        whole = sum(p.numel() for p in network.parameters()) * 4
        quality = f"{each:,.0f} bytes a site, a network {whole:,}"
        yield compare("adapters / the network alone", size, ours, alone, quality=quality)
        yield compare("adapters / each site by itself", size, ours, apart)
    wide = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
    for kind in ("int8", "nf4"):
        packed, given = quantised(wide, kind), torch.randn(1024, 512)
        off = ((packed(given) - wide(given)).norm() / wide(given).norm()).item()

        def small(packed=packed, given=given) -> Tensor:
            return packed(given)

        def plain(given=given) -> Tensor:
            return wide(given)

        yield compare(
            f"weights in {kind} / float32", "1,024 rows, width 512", small, plain, quality=f"output off by {off:.2%}"
        )
