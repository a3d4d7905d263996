"""Train small networks that differ only in their attention on tasks that need distant tokens.

    python -m benchmarks.long_range --task listops|needle [--only plain,gated] [--seeds 3] [--steps 1500]

All networks have the same number of parameters to within 1 %: the MLPs shrink by what an attention needs in addition. Train and
test sequences come from generators of different seeds; the test sequences are the same for all networks. Prints a line per
network: the accuracy of each seed, their mean and spread, and the time of a training step. `docs/operators.md` has the figures
and their interpretation.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tasks import LISTOPS, NEEDLE, Task
from tocsin.operators.gated import GatedAttention
from tocsin.operators.hierarchical import HierarchicalAttention
from tocsin.operators.latent import LatentAttention
from tocsin.operators.routing import FluxAttention, SparsityLoss

DIM, HEADS, LAYERS = 64, 4, 2
TOKENS = 4096  # per training step
WIDE = 4 * DIM
RATE = 1e-3
TEST_SEED, TEST_SIZE = 1_000_003, 1024
Attention = Callable[[], nn.Module]


class Plain(nn.Module):
    """Causal multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Flux(nn.Module):
    """Attention that is dense for the samples that its router selects, or, without `routed`, for no sample."""

    def __init__(self, *, routed: bool) -> None:
        super().__init__()
        self.attention = FluxAttention(dim=DIM, heads=HEADS, sink=4, window=44, pool=8)
        self.routed = routed
        self.route = torch.empty(0)  # of the last batch

    def forward(self, x: Tensor) -> Tensor:
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        out, self.route = self.attention(x, None if self.routed else none)
        return out


def latent(group: int, window: int) -> Attention:
    return lambda: LatentAttention(dim=DIM, heads=HEADS, latent=32, rope=16, group=group, window=window)


ATTENTIONS: dict[str, Attention] = {
    "plain": Plain,
    "gated": lambda: GatedAttention(dim=DIM, heads=HEADS, causal=True),
    "hierarchical": lambda: HierarchicalAttention(dim=DIM, heads=HEADS, levels=3),
    "latent": latent(1, 1),
    "latent condensed": latent(8, 32),
    "sink and window": lambda: Flux(routed=False),
    "flux routed": lambda: Flux(routed=True),
}
"""Rows per query: with condensing, 44 to 51 of 128 (groups of 8, 32 raw tokens); with sink and window, 48; routed: 48 or all."""


class Network(nn.Module):
    """A network of embedding and blocks of attention and MLP that answers from the last token.

    Args:
        attention: creates a causal attention of width `DIM`.
        hidden: width of the MLPs.
    """

    def __init__(self, task: Task, attention: Attention, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(task.tokens, DIM)
        self.places = nn.Parameter(torch.randn(task.length, DIM) * 0.02)
        self.attentions = nn.ModuleList(attention() for _ in range(LAYERS))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, hidden), nn.GELU(), nn.Linear(hidden, DIM))
            for _ in range(LAYERS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(LAYERS))
        self.answer = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, task.answers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, answers]` of `tokens` `[B, task.length]`."""
        x = self.tokens(tokens) + self.places
        for norm, attention, mlp in zip(self.norms, self.attentions, self.mlps, strict=True):
            x = x + attention(norm(x))
            x = x + mlp(x)
        return self.answer(x[:, -1])

    def routes(self) -> list[Tensor]:
        """Return which samples of the last batch were dense, one tensor per attention with a router."""
        return [a.route for a in self.attentions if isinstance(a, Flux) and a.routed]


def sized(task: Task, attention: Attention) -> Network:
    """Create a network with as many parameters as the plain network of MLP width `WIDE`."""
    target_count, narrow = count(Network(task, Plain, WIDE)), count(Network(task, attention, 1))
    hidden = 1 + round((target_count - narrow) / (LAYERS * (2 * DIM + 1)))
    network = Network(task, attention, hidden)
    assert abs(count(network) / target_count - 1) < 0.01, (count(network), target_count)
    return network


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def trained(task: Task, attention: Attention, *, seed: int, steps: int) -> tuple[float, float, float]:
    """Train a network. Returns its test accuracy, its share of dense attention in the test, and seconds per training step."""
    torch.manual_seed(seed)
    network = sized(task, attention)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    sparsity = SparsityLoss(targets=[0.5])
    ascent = torch.optim.Adam(sparsity.parameters(), lr=RATE, maximize=True)
    start = time.perf_counter()
    for tokens, answers in batches(task, seed, TOKENS // task.length, steps):
        loss = F.cross_entropy(network(tokens), answers)
        if routes := network.routes():
            loss = loss + sparsity(torch.stack(routes), torch.zeros(len(tokens), dtype=torch.int64))
        optimiser.zero_grad()
        ascent.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        ascent.step()
        schedule.step()
    seconds = (time.perf_counter() - start) / steps
    return *tested(task, network), seconds


def tested(task: Task, network: Network) -> tuple[float, float]:
    """Return the share of right answers to the test sequences, and the share of dense attention (1 without a router)."""
    network.eval()
    right, dense = [], []
    with torch.inference_mode():
        for tokens, answers in batches(task, TEST_SEED, 64, TEST_SIZE // 64):
            right.append((network(tokens).argmax(1) == answers).float().mean().item())
            dense += [route.float().mean().item() for route in network.routes()]
    return statistics.fmean(right), statistics.fmean(dense) if dense else 1.0


def batches(task: Task, seed: int, size: int, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = random.Random(seed)
    return (task.draw(generator, size, task.length) for _ in range(number))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--task", choices=("listops", "needle"), required=True)
    parser.add_argument("--only", default=",".join(ATTENTIONS), help=f"some of {', '.join(ATTENTIONS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    task = {"listops": LISTOPS, "needle": NEEDLE}[args.task]
    print(
        "| attention | parameters | accuracy, mean ± spread | of each seed | dense | ms a step |\n|---|---|---|---|---|---|"
    )
    for name in args.only.split(","):
        attention = ATTENTIONS[name]
        results, dense, seconds = zip(
            *(trained(task, attention, seed=seed, steps=args.steps) for seed in range(args.seeds)), strict=True
        )
        spread = statistics.stdev(results) if len(results) > 1 else 0.0
        figures = f"{100 * statistics.fmean(results):.1f} ± {100 * spread:.1f} | {', '.join(f'{100 * a:.1f}' for a in results)}"
        shares = f"{statistics.fmean(dense):.2f}" if min(dense) < 1 else ""
        size, ms = count(sized(task, attention)), 1000 * statistics.median(seconds)
        print(f"| {name} | {size:,} | {figures} | {shares} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
