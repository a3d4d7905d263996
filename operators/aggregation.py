"""Density-driven token aggregation, and attention of all tokens to the aggregates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

MIN_NORM = 1e-6  # a shorter aggregate has cancelled out; its direction is meaningless


def aggregate(
    x: Tensor,
    count: int,
    *,
    oversample: int = 4,
    neighbours: int = 8,
    temperature: float = 0.02,
    hard: bool = False,
    restore_norm: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce the tokens of each image to `count` aggregates: weighted means of the tokens around density peaks.

    The candidates for a peak are `oversample * count` evenly spaced tokens. A candidate's score is `rho * delta`. `rho` is its
    mean cosine to its nearest candidates. `delta` is its distance (1 - cosine) to the nearest denser candidate; the densest
    candidate takes the distance to the farthest. Position breaks ties, and there are no random numbers. The result is
    differentiable in the tokens; the choice of the centres is not.
    Source: SAT's density-driven token aggregation (arXiv 2604.07994), as described by others. This project's choices are: even
    spacing instead of random picks, the defaults, and that with `hard` a centre always belongs to itself.

    Args:
        x: `[B, N, C]`, any float dtype; dtypes narrower than float32 are compared and summed in float32.
        count: number of aggregates K, 1 to N.
        oversample: candidates per centre.
        neighbours: number of nearest candidates in a density, at most all the others. A larger number overlooks small groups.
        temperature: of the softmax over the cosines to the centres, which distributes a token among them.
        hard: assign each token wholly to its nearest centre.
        restore_norm: scale each aggregate to the norm of the image's longest token. A mean is shorter than its tokens.

    Returns:
        Aggregates `[B, K, C]`, dtype of `x`. Masses `[B, K]`: how many tokens each aggregate stands for, N in total; float32
        where `x` is narrower. Centres `[B, K] int64`: ascending positions in `x`.

    Raises:
        ValueError: if `x` is not a batch of tokens, `count` is not in 1 to N, or `oversample` or `neighbours` is less than 1.
    """
    _check(x, count, oversample, neighbours)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        unit = F.normalize(wide, dim=-1)
        with torch.no_grad():
            centres = _peaks(unit, count, oversample, neighbours)
        cosine = unit @ unit.gather(1, _rows(centres, unit)).mT  # [B, N, K]
        if hard:
            indices = torch.arange(count, device=x.device).expand_as(centres)
            nearest = cosine.argmax(-1).scatter(1, centres, indices)
            share = torch.zeros_like(cosine).scatter(2, nearest.unsqueeze(-1), 1)
        else:
            share = torch.softmax(cosine / temperature, dim=-1)
        masses = share.sum(1)  # [B, K], never 0: a centre's own share is at least 1 / K
        tokens = (share.mT @ wide) / masses.unsqueeze(-1)
        if restore_norm:
            longest = wide.norm(dim=-1).amax(1)[:, None, None]
            tokens = tokens * (longest / tokens.norm(dim=-1, keepdim=True).clamp_min(MIN_NORM))
    return tokens.to(x.dtype), masses, centres


def naive_aggregate(
    x: Tensor,
    count: int,
    *,
    oversample: int = 4,
    neighbours: int = 8,
    temperature: float = 0.02,
    hard: bool = False,
    restore_norm: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """`aggregate` a token at a time: the oracle of its tests."""
    size = _check(x, count, oversample, neighbours)
    aggregates, masses, chosen = [], [], []
    for image in x:
        cosine = {
            (i, j): F.cosine_similarity(image[i], image[j], dim=0) for i in range(len(image)) for j in range(len(image))
        }
        candidates = [(2 * s + 1) * len(image) // (2 * size) for s in range(size)]
        density, apart = {}, {}
        for i in candidates:
            near = sorted((cosine[i, j].item() for j in candidates if j != i), reverse=True)
            near = near[:neighbours]
            density[i] = sum(near) / max(len(near), 1)
        for i in candidates:
            denser = [j for j in candidates if density[j] > density[i] or (density[j] == density[i] and j < i)]
            distances = [1 - cosine[i, j].item() for j in denser or candidates]
            apart[i] = min(distances) if denser else max(distances)
        centres = sorted(sorted(candidates, key=lambda i: -density[i] * apart[i])[:count])
        mass, total = [torch.zeros_like(image[0, 0])] * count, [torch.zeros_like(image[0])] * count
        for i, token in enumerate(image):
            similarity = torch.stack([cosine[i, c] for c in centres])
            share = torch.softmax(similarity / temperature, dim=0)
            if hard:
                best = centres.index(i) if i in centres else int(similarity.argmax())
                share = F.one_hot(torch.tensor(best), count).to(share)
            mass = [m + w for m, w in zip(mass, share, strict=True)]
            total = [t + w * token for t, w in zip(total, share, strict=True)]
        rows = torch.stack([t / m for t, m in zip(total, mass, strict=True)])
        if restore_norm:
            longest = torch.stack([token.norm() for token in image]).max()
            rows = torch.stack([row * longest / row.norm().clamp_min(MIN_NORM) for row in rows])
        aggregates.append(rows)
        masses.append(torch.stack(mass))
        chosen.append(torch.tensor(centres))
    if not aggregates:
        return x[:, :count], x[:, :count, 0], torch.empty(0, count, dtype=torch.long)
    return torch.stack(aggregates), torch.stack(masses), torch.stack(chosen)


class SelectiveAttention(nn.Module):
    """Multi-head attention of all tokens to a few aggregates of them; see `aggregate`.

    Source: SAT's selective aggregation attention (arXiv 2604.07994), reconstructed. `proportional` is this project's addition.
    Without it, a rare kind of token weighs as much as a common one.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim` and `query_dim`.
        share: number of aggregates as a share of the tokens, at least one aggregate. 1 is plain attention, except for the norms.
        query_dim: width of queries and keys; None for `dim`. Others halve it.
        proportional: count an aggregate as the number of tokens it stands for, by adding the log of its mass to its logit.
        temperature, hard, restore_norm: see `aggregate`.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        share: float = 0.03,
        query_dim: int | None = None,
        proportional: bool = True,
        temperature: float = 0.02,
        hard: bool = False,
        restore_norm: bool = True,
    ) -> None:
        super().__init__()
        query_dim = dim if query_dim is None else query_dim
        for name, width in (("dim", dim), ("query_dim", query_dim)):
            if width % heads:
                raise ValueError(f"heads ({heads}) must divide {name} ({width})")
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected more than 0 and at most 1")
        self.heads, self.share, self.proportional = heads, share, proportional
        self.temperature, self.hard, self.restore_norm = temperature, hard, restore_norm
        self.query = nn.Linear(dim, query_dim, bias=False)
        self.key = nn.Linear(dim, query_dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` of `x` `[B, N, dim]`."""
        n = match(x=(x, f"B N {self.out.in_features}"))["N"]
        few, masses, _ = aggregate(
            x,
            max(round(self.share * n), 1),
            temperature=self.temperature,
            hard=self.hard,
            restore_norm=self.restore_norm,
        )
        q, k, v = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N or K, D]
            for project, tokens in ((self.query, x), (self.key, few), (self.value, few))
        )
        bias = masses.log().to(q.dtype)[:, None, None] if self.proportional else None
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


def _peaks(unit: Tensor, count: int, oversample: int, neighbours: int) -> Tensor:
    """Positions of the density peaks, ascending: `[B, K]`."""
    n = unit.shape[1]
    size = min(n, oversample * count)
    candidates = (2 * torch.arange(size, device=unit.device) + 1) * n // (2 * size)  # the middles of equal stretches
    sampled = unit.index_select(1, candidates)
    cosine = sampled @ sampled.mT  # [B, S, S]
    k = min(neighbours, size - 1)
    others = cosine.masked_fill(torch.eye(size, dtype=torch.bool, device=unit.device), -torch.inf)
    density = others.topk(k, dim=-1).values.sum(-1) / max(k, 1)
    ahead, behind = density.unsqueeze(1), density.unsqueeze(2)  # of the column, of the row
    earlier = torch.ones_like(cosine[:1], dtype=torch.bool).tril(-1) if len(cosine) else cosine.bool()
    denser = (ahead > behind) | ((ahead == behind) & earlier)
    distance = 1 - cosine
    apart = distance.masked_fill(~denser, torch.inf).amin(-1)
    apart = torch.where(apart.isinf(), distance.amax(-1), apart)
    best = (density * apart).sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return candidates[best.sort(dim=-1).values]


def _rows(index: Tensor, x: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, x.shape[-1])


def _check(x: Tensor, count: int, oversample: int, neighbours: int) -> int:
    """Check the arguments, and return the number of candidates."""
    n = match(x=(x, "B N C"))["N"]
    if not 1 <= count <= n:
        raise ValueError(f"count is {count}, there are {n} tokens; 1 to {n} aggregates can be made")
    if oversample < 1 or neighbours < 1:
        raise ValueError(f"oversample ({oversample}) and neighbours ({neighbours}) must be at least 1")
    return min(n, oversample * count)
