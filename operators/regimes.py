"""Operating regimes: normalise sensors by regime, split them into trend and residual, and fuse both with the regimes by attention.

This is a reconstruction of MAFN (arXiv 2604.10248) from its abstract. The paper has a trend, regimes that are clustered and
embedded, residual noise, and attention that joins them. The form of each is this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

STRETCH = 64  # steps of a trend that one matrix product computes
STARTS, ROUNDS = 8, 100  # of k-means, whose result depends on its start


@dataclass(frozen=True)
class Regimes:
    """Centres of the operating regimes in the settings' units.

    Args:
        centres: `[K, S]`, ascending by their first setting, then the next.
        scale: `[S]`, the divisor of each setting in distances.
    """

    centres: Tensor
    scale: Tensor

    def of(self, settings: Tensor) -> Tensor:
        """Index of the nearest centre for each of `settings` `[..., S]`, the first on a tie: `[...] int64`."""
        match(settings=(settings.flatten(0, -2), "N S"), centres=(self.centres, "K S"))
        offset = (settings.unsqueeze(-2) - self.centres) / self.scale
        return offset.square().sum(-1).argmin(-1)


def fit_regimes(settings: Tensor, count: int, generator: torch.Generator | None = None) -> Regimes:
    """Fit regimes by k-means over standardised settings: the best of a few k-means++ starts.

    The same input gives the same regimes.

    Args:
        settings: `[N, S]`, one row per cycle, finite.
        count: number of regimes K, at most the number of distinct rows.
        generator: source of the random starts; None is a fixed seed.

    Raises:
        ValueError: if there are fewer distinct rows than regimes, or a setting is not finite.
    """
    match(settings=(settings, "N S"))
    if not settings.isfinite().all():
        raise ValueError(
            f"{int((~settings.isfinite()).any(1).sum())} of {len(settings)} rows of settings are not finite"
        )
    distinct = len(torch.unique(settings, dim=0))
    if not 1 <= count <= distinct:
        raise ValueError(f"count is {count}, expected 1 to {distinct}: the settings have {distinct} distinct rows")
    generator = torch.Generator(settings.device).manual_seed(0) if generator is None else generator
    x = settings.double()
    mean = x.mean(0)
    scale = _deviation(x.std(0, correction=0), mean)
    x = (x - mean) / scale
    fits = [_lloyd(x, _start(x, count, generator)) for _ in range(STARTS)]
    centres = min(fits, key=lambda fit: _distances(x, fit).amin(1).sum().item()) * scale + mean
    for setting in reversed(range(centres.shape[1])):
        centres = centres[centres[:, setting].sort(stable=True).indices]
    return Regimes(centres.to(settings.dtype), scale.to(settings.dtype))


def regime_statistics(x: Tensor, regime: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each sensor in each regime.

    Args:
        x: `[N, F]`, sensor readings, any float dtype; summed in float64.
        regime: `[N] int64`, 0 to K - 1.
        count: K.

    Returns:
        Mean and deviation, each `[K, F]`, float32 where `x` is narrower. A regime without rows has mean 0. A sensor that is
        constant in a regime has deviation 1.
    """
    match(x=(x, "N F"), regime=(regime, "N"))
    _check_regime(regime, count)
    # float64: the error of float32 sums over thousands of large readings can exceed a sensor's spread.
    member = F.one_hot(regime, count).double()  # [N, K]
    rows = member.sum(0).clamp_min(1).unsqueeze(1)
    mean = member.T @ x.double() / rows
    # Subtract the mean before squaring: squares of large readings would swamp their spread.
    deviation = _deviation((member.T @ (x - mean[regime]).square() / rows).sqrt(), mean)
    wide = torch.promote_types(x.dtype, torch.float32)
    return mean.to(wide), deviation.to(wide)


@dataclass(frozen=True)
class Decomposed:
    """Trend and residual of sensors; their sum is the normalised reading.

    Args:
        trend, residual: `[B, T, F]`, in standard deviations of the regime.
        state: `[B, F]`, the last trend, float32 where the readings are narrower; None before the first step.
    """

    trend: Tensor
    residual: Tensor
    state: Tensor | None


def decompose(
    x: Tensor, regime: Tensor, mean: Tensor, deviation: Tensor, *, keep: float, state: Tensor | None = None
) -> Decomposed:
    """Normalise readings by their regime, and split them into an exponential moving average and a residual.

    `z_t = (x_t - mean[regime_t]) / deviation[regime_t]`, `trend_t = keep * trend_(t-1) + (1 - keep) * z_t`, starting from `z_0`.
    It is causal, and a stream can be passed in parts.

    Args:
        x: `[B, T, F]`, sensor readings, any float dtype.
        regime: `[B, T] int64`.
        mean, deviation: `[K, F]`, from `regime_statistics` on training data, in any dtype.
        keep: share of the trend that a step keeps, 0 to 1; a step's weight halves in `log(0.5) / log(keep)` steps.
        state: the `state` after the previous steps; None for the first part.

    Raises:
        ValueError: if the shapes do not fit together, or a regime or `keep` is out of range.
    """
    sizes = _check(x, regime, mean, deviation, keep, state)
    z = _normalise(x, regime, mean, deviation)
    step = torch.arange(STRETCH, device=x.device)
    ages = step.unsqueeze(1) - step
    # Weight of each step in each later step of a stretch: one matrix product replaces a loop over steps.
    weight = ((1 - keep) * keep ** ages.clamp_min(0).to(z.dtype)).masked_fill(ages < 0, 0)
    fade = keep ** (step + 1).to(z.dtype)
    parts = []
    with torch.autocast(x.device.type, enabled=False):
        for part in z.split(STRETCH, dim=1) if sizes["T"] else ():
            n = part.shape[1]
            before = part[:, 0] if state is None else state
            part = weight[:n, :n] @ part + fade[:n, None] * before.unsqueeze(1)
            parts.append(part)
            state = part[:, -1]
    trend = torch.cat(parts, dim=1) if parts else z
    return Decomposed(trend.to(x.dtype), (z - trend).to(x.dtype), state)


def naive_decompose(
    x: Tensor, regime: Tensor, mean: Tensor, deviation: Tensor, *, keep: float, state: Tensor | None = None
) -> Decomposed:
    """`decompose` a step at a time: the oracle of its tests."""
    _check(x, regime, mean, deviation, keep, state)
    z = _normalise(x, regime, mean, deviation)
    trend = []
    for step in z.unbind(1):
        state = step if state is None else keep * state + (1 - keep) * step
        trend.append(state)
    smooth = torch.stack(trend, dim=1) if trend else z
    return Decomposed(smooth.to(x.dtype), (z - smooth).to(x.dtype), state)


def regime_attention(
    q: Tensor, k: Tensor, v: Tensor, regime_k: Tensor, regime_v: Tensor, regime: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention to each step's own key and to the key of each step's regime.

    Each regime's key occurs once, with the log of its number of steps added to its logit. The sum is the same as with one regime
    key per step, at half the keys.

    Args:
        q: `[B, H, T, D]`, any float dtype.
        k, v: `[B, H, S, D]`, of the steps.
        regime_k, regime_v: `[H, K, D]`, of the regimes.
        regime: `[B, S] int64`.
        mask: `[B, S] bool`, True where a step counts; None counts every step. A row without a step gives zeros.

    Returns:
        `[B, H, T, D]`, dtype of `q`.

    Raises:
        ValueError: if the shapes or dtypes do not fit together, or a regime is out of range.
    """
    sizes, mask = _check_attention(q, k, v, regime_k, regime_v, regime, mask)
    member = (regime.unsqueeze(-1) == torch.arange(sizes["K"], device=q.device)) & mask.unsqueeze(-1)  # [B, S, K]
    counts = torch.cat((member.sum(1), mask), dim=1)  # [B, K + S], how many steps each key stands for
    bias = counts.to(torch.promote_types(q.dtype, torch.float32)).log().to(q.dtype)  # -inf where there is no step
    k, v = (
        torch.cat((of_regime.expand(sizes["B"], -1, -1, -1), of_step), dim=2)
        for of_regime, of_step in ((regime_k, k), (regime_v, v))
    )
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None])


def naive_regime_attention(
    q: Tensor, k: Tensor, v: Tensor, regime_k: Tensor, regime_v: Tensor, regime: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`regime_attention` with a regime's key for every step, a row at a time: the oracle of its tests."""
    _, mask = _check_attention(q, k, v, regime_k, regime_v, regime, mask)
    rows = []
    for b, seen in enumerate(mask):
        keys = torch.cat((regime_k[:, regime[b, seen]], k[b][:, seen]), dim=1)  # [H, 2S, D]
        values = torch.cat((regime_v[:, regime[b, seen]], v[b][:, seen]), dim=1)
        logits = q[b] @ keys.mT * q.shape[-1] ** -0.5
        rows.append(torch.softmax(logits, dim=-1) @ values if seen.any() else torch.zeros_like(q[b]))
    return torch.stack(rows) if rows else q


class RegimeFusion(nn.Module):
    """The trend branch attends to regimes and residuals: multi-head attention, residual sum, layer norm.

    With a single regime, its embedding is one learned key that all steps share; only the residuals' keys differ.

    Args:
        dim: width of the trend branch.
        features: width F of the residuals.
        count: number of regimes.
        heads: number of heads, which must divide `dim`.
        embedding: width of a regime's embedding.
    """

    def __init__(self, *, dim: int, features: int, count: int, heads: int = 4, embedding: int = 8) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.dim, self.features, self.heads = dim, features, heads
        self.embedding = nn.Embedding(count, embedding)
        self.from_regime = nn.Linear(embedding, dim)
        self.from_residual = nn.Linear(features, dim)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = nn.LayerNorm(dim)

    def forward(self, trend: Tensor, residual: Tensor, regime: Tensor, mask: Tensor | None = None) -> Tensor:
        """The trend branch after fusion: `[B, T, dim]`.

        Args:
            trend: `[B, T, dim]`, encoded.
            residual: `[B, T, F]`, from `decompose`.
            regime: `[B, T] int64`.
            mask: `[B, T] bool`, True where a step counts.
        """
        match(trend=(trend, f"B T {self.dim}"), residual=(residual, f"B T {self.features}"), regime=(regime, "B T"))
        regimes, steps = self.from_regime(self.embedding.weight), self.from_residual(residual)
        context = regime_attention(
            self._split(self.query(trend)),
            self._split(self.key(steps)),
            self._split(self.value(steps)),
            self._split(self.key(regimes)),
            self._split(self.value(regimes)),
            regime,
            mask,
        )
        return self.norm(trend + self.out(context.transpose(-3, -2).flatten(-2)))

    def _split(self, x: Tensor) -> Tensor:
        """`[..., T, dim]` to `[..., H, T, D]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def _start(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: draw each next centre from the rows by squared distance to the nearest earlier centre."""
    chosen = [int(torch.randint(len(x), (), generator=generator, device=x.device))]
    for _ in range(count - 1):
        apart = _distances(x, x[chosen]).amin(1)
        chosen.append(int(torch.multinomial(apart, 1, generator=generator)))
    return x[chosen]


def _lloyd(x: Tensor, centres: Tensor) -> Tensor:
    nearest = None
    for _ in range(ROUNDS):
        before, nearest = nearest, _distances(x, centres).argmin(1)
        if before is not None and torch.equal(before, nearest):
            break
        member = F.one_hot(nearest, len(centres)).to(x)
        rows = member.sum(0).unsqueeze(1)
        centres = torch.where(rows > 0, member.T @ x / rows.clamp_min(1), centres)
    return centres


def _distances(x: Tensor, centres: Tensor) -> Tensor:
    return (x.unsqueeze(1) - centres).square().sum(-1)


def _deviation(deviation: Tensor, mean: Tensor) -> Tensor:
    """Replace a spread that is only rounding error by 1."""
    return torch.where(deviation > 1e-9 * mean.abs(), deviation, 1)


def _normalise(x: Tensor, regime: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    mean, deviation = mean.to(wide), deviation.to(wide)  # cast before the lookup: its gradient sums over steps
    return (x.to(wide) - mean[regime]) / deviation[regime]


def _check(
    x: Tensor, regime: Tensor, mean: Tensor, deviation: Tensor, keep: float, state: Tensor | None
) -> dict[str, int]:
    wide = {"mean": (mean.to(x.dtype), "K F"), "deviation": (deviation.to(x.dtype), "K F")}
    if state is not None:
        wide["state"] = (state.to(x.dtype), "B F")
    sizes = match(x=(x, "B T F"), regime=(regime, "B T"), **wide)
    if not 0 <= keep < 1:
        raise ValueError(f"keep is {keep}, expected at least 0 and less than 1")
    _check_regime(regime, sizes["K"])
    return sizes


def _check_attention(
    q: Tensor, k: Tensor, v: Tensor, regime_k: Tensor, regime_v: Tensor, regime: Tensor, mask: Tensor | None
) -> tuple[dict[str, int], Tensor]:
    mask = torch.ones_like(regime, dtype=torch.bool) if mask is None else mask
    regimes = {"regime_k": (regime_k, "H K D"), "regime_v": (regime_v, "H K D")}
    steps = {"k": (k, "B H S D"), "v": (v, "B H S D"), "regime": (regime, "B S"), "mask": (mask, "B S")}
    sizes = match(q=(q, "B H T D"), **steps, **regimes)
    _check_regime(regime, sizes["K"])
    return sizes, mask


def _check_regime(regime: Tensor, count: int) -> None:
    # Only on a CPU: reading the values would make a GPU wait.
    if regime.device.type == "cpu" and regime.numel() and not 0 <= regime.min() <= regime.max() < count:
        raise ValueError(f"regime is {int(regime.min())} to {int(regime.max())}, there are {count}: 0 to {count - 1}")
