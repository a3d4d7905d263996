"""Latent-condensed attention: over a window of recent latents, and groups of older latents that are pooled into one each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

SUMMARY = 16
"""Number of queries that decide which tokens of a group matter: the last ones when the group leaves the window."""
BLOCK = 256
"""Number of queries in one attention call. It bounds the size of their common mask."""


def condense(latents: Tensor, rope_keys: Tensor, importance: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Condense each group of neighbouring tokens into one latent and one positional key.

    The latent is the mean of the group's latents, weighted by the softmax of importance. The positional key is that of the most
    important token, since a mean of rotated keys mixes phases. With `group` 1 both are unchanged.
    Source: Latent-Condensed Attention (arXiv 2604.12452); the formulas are reconstructed from its description.

    Args:
        latents: `[B, N, C]`, any float dtype.
        rope_keys: `[B, N, R]`, already rotated.
        importance: `[B, N]` logits, any float dtype. bfloat16 does not distinguish close ones.
        group: number of tokens that become one; it must divide N.

    Returns:
        `[B, N / group, C]` and `[B, N / group, R]`, dtype of `latents`.

    Raises:
        ValueError: if the shapes do not fit together or `group` does not divide N.
    """
    grouped, keys, ranks = _grouped(latents, rope_keys, importance, group)
    weights = torch.softmax(ranks, dim=-1).unsqueeze(-2)  # [B, M, 1, G]
    pooled = (weights @ grouped.to(weights.dtype)).squeeze(-2).to(latents.dtype)
    chosen = ranks.argmax(-1)[..., None, None].expand(-1, -1, 1, keys.shape[-1])
    return pooled, keys.gather(2, chosen).squeeze(2)


def naive_condense(latents: Tensor, rope_keys: Tensor, importance: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """`condense` a group at a time: the oracle of its tests."""
    grouped, keys, ranks = _grouped(latents, rope_keys, importance, group)
    pooled, chosen = grouped[:, :, 0].clone(), keys[:, :, 0].clone()
    for b in range(grouped.shape[0]):
        for i in range(grouped.shape[1]):
            weights = torch.exp(ranks[b, i] - ranks[b, i].max())
            pooled[b, i] = (weights / weights.sum()) @ grouped[b, i]
            chosen[b, i] = keys[b, i, ranks[b, i].tolist().index(ranks[b, i].max().item())]
    return pooled, chosen


def condensed_attention(
    q: Tensor,
    q_rope: Tensor,
    latents: Tensor,
    rope_keys: Tensor,
    *,
    group: int,
    window: int,
    scale: float | None = None,
    mass: bool = True,
) -> Tensor:
    """Causal attention over latents that all heads share; all but the recent latents are condensed.

    Query t sees itself, at least the `window - 1` tokens before it, and each full group older than those as one row. A group is
    condensed at the query that pushes it out of the window. The importance of a token is its mean logit over all heads of the
    last 16 queries up to that one. So no query sees later tokens, and `LatentCache` gives the same result token by token.
    Source: Latent-Condensed Attention (arXiv 2604.12452) over the absorbed form of multi-head latent attention (arXiv
    2405.04434). Reconstructed: the formulas, the moment of condensing, and `mass`.

    Args:
        q: `[B, H, T, C]`, queries that have absorbed their head's key projection; any float dtype.
        q_rope: `[B, H, T, R]`, already rotated.
        latents: `[B, T, C]`, both keys and values.
        rope_keys: `[B, T, R]`, already rotated.
        group: number of tokens that become one; 1 is full attention.
        window: number of tokens that are never condensed, including the query's own.
        scale: of the logits, `(C + R) ** -0.5` by default. A model passes its own, from the width of a head before absorption.
        mass: add `log group` to the logits of groups. It is the default because groups of equal tokens are then exact. Without
            it, a condensed group weighs up to `group` times less than its tokens did.

    Returns:
        `[B, H, T, C]`, dtype of `q`: means of latents, which the head's value projection expects.

    Raises:
        ValueError: if the shapes or dtypes do not fit together, or `group` or `window` is less than 1.
    """
    length = _check(q, q_rope, latents, rope_keys)["T"]
    _positive(group=group, window=window)
    queries, rows = torch.cat((q, q_rope), dim=-1), torch.cat((latents, rope_keys), dim=-1)
    groups = rows[:, :0]
    if count := _ended(length, group, window):
        # Group i leaves at token `window + (i + 1) * group - 1`. Its summary is the mean of the 16 queries up to it.
        padded = F.pad(_heads_mean(queries), (0, 0, SUMMARY - 1, 0))[:, window + group - 1 :]
        counts = torch.arange(window + group, length + 1, group, device=q.device).clamp_max(SUMMARY)
        summary = padded.unfold(1, SUMMARY, group).sum(-1) / counts.unsqueeze(1)  # [B, M, E]
        groups = _pool(rows[:, : count * group], summary, q.shape[-1], scale)
    outs = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        first = _ended(start + 1, group, window) * group  # the oldest token that the first query sees raw
        ended = _ended(end, group, window)
        at, tokens = torch.arange(start, end, device=q.device), torch.arange(first, end, device=q.device)
        bias = _bias(at, tokens, ended, group, window, mass)
        seen = torch.cat((rows[:, first:end], groups[:, :ended]), dim=1)
        outs.append(_attend(queries[:, :, start:end], seen, bias, scale)[..., : q.shape[-1]])
    return torch.cat(outs, dim=2) if outs else torch.zeros_like(q)


def naive_condensed_attention(
    q: Tensor,
    q_rope: Tensor,
    latents: Tensor,
    rope_keys: Tensor,
    *,
    group: int,
    window: int,
    scale: float | None = None,
    mass: bool = True,
) -> Tensor:
    """`condensed_attention` a token at a time: the oracle of its tests."""
    length = _check(q, q_rope, latents, rope_keys)["T"]
    factor = (q.shape[-1] + q_rope.shape[-1]) ** -0.5 if scale is None else scale
    c, k, raw, outs = latents[:, :0], rope_keys[:, :0], 0, []
    for t in range(length):
        if t + 1 - raw == window + group:
            span, recent = slice(raw, raw + group), slice(max(0, t + 1 - SUMMARY), t + 1)
            logits = torch.einsum("bhtc,bjc->bhtj", q[:, :, recent], latents[:, span])
            logits = logits + torch.einsum("bhtr,bjr->bhtj", q_rope[:, :, recent], rope_keys[:, span])
            pooled, key = naive_condense(latents[:, span], rope_keys[:, span], factor * logits.mean((1, 2)), group)
            c, k, raw = torch.cat((c, pooled), dim=1), torch.cat((k, key), dim=1), raw + group
        values, keys = torch.cat((c, latents[:, raw : t + 1]), dim=1), torch.cat((k, rope_keys[:, raw : t + 1]), dim=1)
        logits = torch.einsum("bhc,bjc->bhj", q[:, :, t], values) + torch.einsum("bhr,bjr->bhj", q_rope[:, :, t], keys)
        stands_for = torch.ones(values.shape[1], dtype=q.dtype, device=q.device)
        stands_for[: c.shape[1]] = group if mass else 1
        weights = torch.softmax(factor * logits + stands_for.log(), dim=-1)
        outs.append(torch.einsum("bhj,bjc->bhc", weights, values))
    return torch.stack(outs, dim=2) if outs else torch.zeros_like(q)


class LatentCache:
    """The state of `condensed_attention` over a stream, for inference: it holds no gradient.

    One buffer holds a ring of raw rows, fewer than `window + group`, and then one row per group. The ring may be in any order,
    since attention does not depend on it. A full buffer grows by an eighth, so that a step does not usually copy it.

    Args:
        group, window, scale, mass: as in `condensed_attention`.
    """

    def __init__(self, *, group: int, window: int, scale: float | None = None, mass: bool = True) -> None:
        _positive(group=group, window=window)
        self.group, self.window, self.scale, self.mass = group, window, scale, mass
        self.tokens = 0
        """Number of tokens seen, which is the position of the next one."""
        self._ring_size = window + group - 1
        self._width = 0  # C
        self._rows: Tensor | None = None  # [B, ring + room for groups, C + R]
        self._recent = torch.empty(0)  # [B, up to 15, C + R], the last queries' means over heads

    @property
    def groups(self) -> int:
        """Number of condensed groups."""
        return _ended(self.tokens, self.group, self.window)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, including spare room."""
        return 0 if self._rows is None else self._rows.nbytes + self._recent.nbytes

    @torch.no_grad()
    def step(self, latents: Tensor, rope_keys: Tensor, q: Tensor, q_rope: Tensor) -> Tensor:
        """Store the next tokens, one or many, and attend from each; the result does not depend on how they are split.

        Args:
            latents, rope_keys, q, q_rope: as in `condensed_attention`, of the next T tokens.

        Returns:
            `[B, H, T, C]`, dtype of `q`.

        Raises:
            ValueError: if the shapes or dtypes do not fit each other or the earlier tokens.
        """
        length = _check(q, q_rope, latents, rope_keys)["T"]
        queries, rows = torch.cat((q, q_rope), dim=-1), torch.cat((latents, rope_keys), dim=-1)
        buffer = self._ensure_room(rows, q.shape[-1])
        mean = _heads_mean(queries)
        mean = torch.cat((self._recent.to(mean), mean), dim=1)
        outs, start, before = [], 0, mean.shape[1] - length
        while start < length:
            groups = _ended(self.tokens + 1, self.group, self.window)
            if groups > self.groups:  # this token pushes a group out of the window and frees its slots
                now = before + start + 1
                buffer = self._condense(mean[:, max(0, now - SUMMARY) : now].mean(1, keepdim=True))
            # Until the next such token, all queries see the same groups, and no slot is needed twice.
            end = start + min(length - start, BLOCK, self.window + (groups + 1) * self.group - 1 - self.tokens)
            at = torch.arange(self.tokens, self.tokens + end - start, device=q.device)
            buffer.index_copy_(1, at % self._ring_size, rows[:, start:end].to(buffer.dtype))
            self.tokens += end - start
            slots = torch.arange(min(self.tokens, self._ring_size), device=q.device)
            tokens = self.tokens - 1 - (self.tokens - 1 - slots) % self._ring_size  # the newest token in each slot
            bias = _bias(at, tokens, groups, self.group, self.window, self.mass)
            seen = buffer[:, : len(slots) + groups]
            outs.append(_attend(queries[:, :, start:end], seen, bias, self.scale)[..., : self._width])
            start = end
        self._recent = mean[
            :, max(0, mean.shape[1] - SUMMARY + 1) :
        ].clone()  # a view would keep the whole chunk in memory
        return torch.cat(outs, dim=2) if outs else torch.zeros_like(q)

    def snapshot(self) -> dict[str, Tensor | int]:
        """Copy the state that `restore` needs: tensors and ints that later steps do not change."""
        state: dict[str, Tensor | int] = {"group": self.group, "window": self.window, "tokens": self.tokens}
        if self._rows is not None:
            used = self._rows[:, : min(self.tokens, self._ring_size) + self.groups]
            state |= {"rows": used.clone(), "recent": self._recent.clone(), "width": self._width}
        return state

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Continue from a `snapshot` of a cache with the same group and window."""
        for name in ("group", "window"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the snapshot has {name} {state[name]}, this cache {getattr(self, name)}; make them equal"
                )
        self.tokens, self._rows = int(state["tokens"]), None
        if isinstance(rows := state.get("rows"), Tensor) and isinstance(recent := state["recent"], Tensor):
            self._ensure_room(rows, int(state["width"]))[:, : rows.shape[1]] = rows
            self._recent = recent.clone()

    @torch.inference_mode(False)  # a tensor made in inference mode could not be written to outside of it
    def _ensure_room(self, rows: Tensor, width: int) -> Tensor:
        """Return the buffer with room for one more group; the first call allocates it for rows such as `rows`."""
        if self._rows is None:
            self._rows = rows.new_empty(len(rows), self._ring_size, rows.shape[2])
            self._recent, self._width = rows.new_empty(len(rows), 0, rows.shape[2]), width
        match(rows=(rows, "B T E"), held=(self._rows, "B S E"))
        room = self._rows.shape[1] - self._ring_size
        if self.groups >= room:
            more = max(64, self.groups + self.groups // 8) - room
            self._rows = torch.cat((self._rows, self._rows.new_empty(len(rows), more, rows.shape[2])), dim=1)
        return self._rows

    def _condense(self, summary: Tensor) -> Tensor:
        """Condense the oldest raw group by a summary query `[B, 1, E]`; return the buffer, which may have grown."""
        assert self._rows is not None
        buffer, index = self._ensure_room(self._rows, self._width), self.groups
        slots = torch.arange(index * self.group, (index + 1) * self.group, device=buffer.device) % self._ring_size
        buffer[:, self._ring_size + index] = _pool(buffer[:, slots], summary, self._width, self.scale)[:, 0]
        return buffer


class LatentAttention(nn.Module):
    """Causal self-attention through latents that all heads share; old ones are condensed, see `condensed_attention`.

    Source: multi-head latent attention (arXiv 2405.04434), condensed as in arXiv 2604.12452, which adds no parameters.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim`.
        latent: width C of the latent.
        rope: width R of the positional key, even.
        group: number of old tokens that become one.
        window: number of recent tokens that are never condensed.
    """

    def __init__(self, *, dim: int, heads: int, latent: int, rope: int, group: int = 16, window: int = 1024) -> None:
        super().__init__()
        _positive(group=group, window=window)
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        if rope % 2:
            raise ValueError(f"2 must divide rope ({rope}), whose halves are rotated against each other")
        self.heads, self.widths, self.group, self.window = heads, (latent, rope), group, window
        self.scale = (dim // heads + rope) ** -0.5
        self.query = nn.Linear(dim, dim + heads * rope, bias=False)
        self.compress = nn.Linear(dim, latent + rope, bias=False)
        self.norm = nn.RMSNorm(latent)
        self.keys = nn.Parameter(torch.randn(heads, dim // heads, latent) * latent**-0.5)
        self.values = nn.Parameter(torch.randn(heads, dim // heads, latent) * latent**-0.5)
        self.out = nn.Linear(dim, dim, bias=False)

    def cache(self) -> LatentCache:
        """Create an empty cache for a stream through this layer."""
        return LatentCache(group=self.group, window=self.window, scale=self.scale)

    def forward(self, x: Tensor, cache: LatentCache | None = None) -> Tensor:
        """`[B, T, dim]` of `x` `[B, T, dim]`: a whole sequence, or the next T tokens of the stream that `cache` has seen."""
        dim = match(x=(x, f"B T {self.query.in_features}"))[str(self.query.in_features)]
        at = torch.arange(x.shape[1], device=x.device) + (cache.tokens if cache else 0)
        q, q_rope = (part.unflatten(-1, (self.heads, -1)) for part in self.query(x).tensor_split((dim,), dim=-1))
        q, q_rope = torch.einsum("bthd,hdc->bhtc", q, self.keys), rotary(q_rope.transpose(1, 2), at)
        latents, rope_keys = self.compress(x).split(self.widths, dim=-1)
        latents = self.norm(latents.to(self.norm.weight.dtype)).to(q.dtype)
        rope_keys = rotary(rope_keys, at)
        if cache is None:
            tensors = (q, q_rope, latents, rope_keys)
            context = condensed_attention(*tensors, group=self.group, window=self.window, scale=self.scale)
        else:
            context = cache.step(latents, rope_keys, q, q_rope)
        return self.out(torch.einsum("bhtc,hdc->bthd", context, self.values).flatten(2))


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864) of `x` `[..., T, R]`, R even, at `positions` `[T]`."""
    half = x.shape[-1] // 2
    kind = torch.promote_types(x.dtype, torch.float32)  # bfloat16 represents integers exactly only up to 256
    speeds = 10_000.0 ** -(torch.arange(half, device=x.device, dtype=kind) / max(half, 1))
    angles = positions.to(kind).unsqueeze(-1) * speeds
    a, b = x.to(kind).tensor_split(2, dim=-1)
    return torch.cat((a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()), dim=-1).to(x.dtype)


def _attend(queries: Tensor, rows: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Attention of all heads to the same rows: `[B, H, T, E]`.

    The heads become queries of one head, so that the rows are read once. The rows are both keys and values, without a copy.
    """
    heads, length = queries.shape[1:3]
    bias = bias.to(queries.dtype).expand(heads, -1, -1).flatten(0, 1)  # [H T, S]
    keys = rows.to(queries.dtype).unsqueeze(1)
    out = F.scaled_dot_product_attention(queries.flatten(1, 2).unsqueeze(1), keys, keys, attn_mask=bias, scale=scale)
    return out.squeeze(1).unflatten(1, (heads, length))


def _bias(at: Tensor, tokens: Tensor, groups: int, group: int, window: int, mass: bool) -> Tensor:
    """Bias of the logits, `[T, S + groups]`: which of the raw `tokens` `[S]` and the groups the queries at `at` see."""
    ended = ((at + 1 - window) // group).clamp_min(0).unsqueeze(1)  # [T, 1]
    raw = (tokens >= ended * group) & (tokens <= at.unsqueeze(1))
    seen = torch.cat((raw, torch.arange(groups, device=at.device) < ended), dim=1)
    weight = torch.zeros(seen.shape[1], device=at.device, dtype=torch.float64)
    weight[len(tokens) :] = math.log(group) if mass else 0.0
    return torch.where(seen, weight, -torch.inf)


def _pool(rows: Tensor, summary: Tensor, width: int, scale: float | None) -> Tensor:
    """Condense groups of `rows` `[B, M G, E]` by their importance to the summary queries `[B, M, E]`: `[B, M, E]`."""
    groups = summary.shape[1]
    grouped = rows.unflatten(1, (groups, rows.shape[1] // groups)).to(summary.dtype)
    # Not a matmul: autocast would round its result before the largest is chosen.
    importance = (grouped * summary.unsqueeze(2)).sum(-1).flatten(1)
    importance = importance * (rows.shape[-1] ** -0.5 if scale is None else scale)
    return torch.cat(condense(rows[..., :width], rows[..., width:], importance, grouped.shape[2]), dim=-1)


def _heads_mean(queries: Tensor) -> Tensor:
    """Mean query over heads, `[B, T, E]`, at least float32; its logit is the mean of the heads' logits."""
    return queries.mean(1, dtype=torch.promote_types(queries.dtype, torch.float32))


def _ended(tokens: int, group: int, window: int) -> int:
    """Number of groups that have left the window after `tokens` tokens."""
    return max(0, (tokens - window) // group)


def _grouped(latents: Tensor, rope_keys: Tensor, importance: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split all three into groups, `[B, M, G, ..]`; importance keeps its own dtype."""
    shapes = {"latents": (latents, "B N C"), "rope_keys": (rope_keys, "B N R")}
    sizes = match(**shapes, importance=(importance.to(latents.dtype), "B N"))
    _positive(group=group)
    if sizes["N"] % group:
        raise ValueError(f"group ({group}) must divide the number of tokens ({sizes['N']})")
    shape = (sizes["N"] // group, group)
    return latents.unflatten(1, shape), rope_keys.unflatten(1, shape), importance.unflatten(1, shape)


def _check(q: Tensor, q_rope: Tensor, latents: Tensor, rope_keys: Tensor) -> dict[str, int]:
    queries = {"q": (q, "B H T C"), "q_rope": (q_rope, "B H T R")}
    return match(**queries, latents=(latents, "B T C"), rope_keys=(rope_keys, "B T R"))


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
