"""Token merging with matrix operations only (MaMe), and its inverse (MaRe)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tocsin.operators.shapes import match

# A weight equal to its column's mean survives. The mean of equal weights may round to just above them.
ROUNDING = 1 - 1e-5


@dataclass(frozen=True)
class Merged:
    """Merged tokens, and what `restore` needs to undo the merge.

    There are P protected tokens, T targets, and S sources, of which K are kept.

    Args:
        tokens: `[B, P + T + K, C]`: the protected tokens, the targets, the kept sources.
        sizes: `[B, P + T + K]`, how many tokens each stands for; float32 where the tokens are narrower, else their dtype.
        weights: `[B, T, S]`, the share of each source in each target. A column sums to 1, or to 0 for a kept source.
        kept: `[S] bool`, True where the source had no match in at least one image of the batch.
        protected: P.
    """

    tokens: Tensor
    sizes: Tensor
    weights: Tensor
    kept: Tensor
    protected: int


def merge(
    tokens: Tensor,
    sizes: Tensor | None = None,
    *,
    threshold: float,
    protected: int = 0,
    features: Tensor | None = None,
) -> Merged:
    """Merge every second token into the tokens that are similar to it, without sort, top-k or scatter.

    Of the tokens after the protected ones, those at 0, 2, 4, ... are targets and the others are sources. A source is merged into
    the targets whose cosine to it exceeds `threshold`. Its weights are proportional to the excess; an excess below the mean of
    the source's column is dropped. A source without a target is kept. It is then kept in every image, since the images of a
    batch share a shape. The result is differentiable in tokens, sizes and features; the choice of what to merge is not.
    Source: MaMe (arXiv 2604.13432), reconstructed from its description. The alternating split, the size-weighted mean and the
    comparison with `>=` are this project's choices. A second ReLU instead of `>=` would delete a source with a single match.

    Args:
        tokens: `[B, N, C]`, any float dtype; dtypes narrower than float32 are compared and summed in float32.
        sizes: `[B, N]`, positive, how many tokens each stands for; None for one each.
        threshold: the least cosine to merge at, not negative; at 1 or more nothing is merged.
        protected: number of tokens at the front that are not merged, such as a class token.
        features: `[B, N, F]`, compared instead of the tokens, such as attention keys.

    Raises:
        ValueError: if the shapes do not fit together, or the threshold is negative.
    """
    sizes, features = _check(tokens, sizes, features, threshold, protected)
    with torch.autocast(tokens.device.type, enabled=False):  # bfloat16 would round the comparisons and the sizes
        weights, kept = _weights(features[:, protected:], threshold)
        n_target, n_source = sizes[:, protected::2], sizes[:, protected + 1 :: 2]
        moved = weights * n_source.unsqueeze(1)  # [B, T, S], how many tokens go where
        total = n_target + moved.sum(2)  # [B, T]
        share = n_target / total  # 1 where nothing is merged in
        target_part = tokens[:, protected::2].to(weights.dtype) * share.unsqueeze(2)
        source = tokens[:, protected + 1 :: 2]
        target = torch.baddbmm(target_part, moved / total.unsqueeze(2), source.to(weights.dtype))
    stay = kept.nonzero()[:, 0]
    tokens = torch.cat((tokens[:, :protected], target.to(tokens.dtype), source.index_select(1, stay)), dim=1)
    sizes = torch.cat((sizes[:, :protected], total, n_source.index_select(1, stay)), dim=1)
    return Merged(tokens, sizes, weights, kept, protected)


def restore(tokens: Tensor, merged: Merged) -> Tensor:
    """Undo a merge: return as many tokens as before it, in their original order.

    A merged source becomes the weighted mean of its targets. All other tokens are exact.
    Source: MaRe (arXiv 2604.13432), reconstructed: the transpose of the merge, whose columns sum to 1.

    Args:
        tokens: `[B, M, D]`, computed from `merged.tokens`, in the same order; of any width.
        merged: what `merge` returned.

    Returns:
        `[B, N, D]`, dtype of `tokens`.

    Raises:
        ValueError: if there are not as many tokens as `merged` has.
    """
    match(tokens=(tokens, "B M D"), sizes=(merged.sizes.to(tokens.dtype), "B M"))
    with torch.autocast(tokens.device.type, enabled=False):
        target = tokens[:, merged.protected :][:, : merged.weights.shape[1]].to(merged.weights.dtype)
        source = (merged.weights.mT @ target).to(tokens.dtype)  # [B, S, D]
    return torch.cat((tokens, source), dim=1).index_select(1, _places(merged))


def naive_merge(
    tokens: Tensor,
    sizes: Tensor | None = None,
    *,
    threshold: float,
    protected: int = 0,
    features: Tensor | None = None,
) -> Merged:
    """`merge` a source at a time: the oracle of its tests."""
    sizes, features = _check(tokens, sizes, features, threshold, protected)
    places = list(range(protected, tokens.shape[1]))
    targets, sources = places[::2], places[1::2]
    shares: list[dict[tuple[int, int], Tensor]] = []  # for each image, (target, source) -> weight
    kept = set()
    for image_features in features:
        share: dict[tuple[int, int], Tensor] = {}
        for s in sources:
            over = {
                t: F.cosine_similarity(image_features[t], image_features[s], dim=0).clamp(max=1) - threshold
                for t in targets
            }
            over = {t: w for t, w in over.items() if w > 0}
            mean = sum(over.values()) / max(len(over), 1)
            over = {t: w for t, w in over.items() if w >= mean * ROUNDING}
            share |= {(t, s): w / sum(over.values()) for t, w in over.items()}
            if not over:
                kept.add(s)
        shares.append(share)
    zero = tokens.new_zeros((), dtype=sizes.dtype)
    images, counts, matrices = [], [], []
    for share, image, n in zip(shares, tokens, sizes, strict=True):
        rows, numbers = list(image[:protected]), list(n[:protected])
        for t in targets:
            into = [(w, s) for (to, s), w in share.items() if to == t and s not in kept]
            number = n[t] + sum(w * n[s] for w, s in into)
            rows.append((n[t] * image[t] + sum(w * n[s] * image[s] for w, s in into)) / number)
            numbers.append(number)
        stay = [s for s in sources if s in kept]
        images.append(torch.stack([r.to(tokens.dtype) for r in rows + [image[s] for s in stay]]))
        counts.append(torch.stack(numbers + [n[s] for s in stay]))
        matrix = [zero if s in kept else share.get((t, s), zero) for t in targets for s in sources]
        matrices.append(torch.stack(matrix).view(len(targets), -1) if matrix else zero.expand(len(targets), 0))
    mask = torch.tensor([s in kept for s in sources], dtype=torch.bool, device=tokens.device)
    if not images:
        fewer = protected + len(targets)
        return Merged(tokens[:, :fewer], sizes[:, :fewer], zero.expand(0, len(targets), len(sources)), mask, protected)
    return Merged(torch.stack(images), torch.stack(counts), torch.stack(matrices), mask, protected)


def naive_restore(tokens: Tensor, merged: Merged) -> Tensor:
    """`restore` a token at a time: the oracle of its tests."""
    (_, t, s), p = merged.weights.shape, merged.protected
    images = []
    for image, weights in zip(tokens, merged.weights, strict=True):
        rows, target, kept = list(image[:p]), image[p : p + t], iter(image[p + t :])
        for i in range(t):
            rows.append(target[i])
            if i < s:
                rows.append(
                    next(kept) if merged.kept[i] else (weights[:, i] @ target.to(weights.dtype)).to(tokens.dtype)
                )
        images.append(torch.stack(rows))
    return torch.stack(images) if images else tokens.new_zeros(0, p + t + s, tokens.shape[2])


def merge_in(block: Callable[[Tensor], Tensor], tokens: Tensor, *, threshold: float, protected: int = 0) -> Tensor:
    """Run a residual block on merged tokens; restore what it adds to them, and add that to all tokens.

    Source: MaMe before a layer and MaRe before the residual sum, as in arXiv 2604.13432's diffusion models.

    Args:
        block: maps `[B, M, C]` to `[B, M, C]` for any M.
        tokens: `[B, N, C]`.
        threshold, protected: see `merge`.

    Returns:
        `[B, N, C]`, an approximation of `block(tokens)`.
    """
    merged = merge(tokens, threshold=threshold, protected=protected)
    return tokens + restore(block(merged.tokens) - merged.tokens, merged)


class MergingBlock(nn.Module):
    """A pre-norm ViT block that merges tokens between attention and MLP; see `merge`.

    Args:
        dim: width of a token.
        heads: number of heads, which must divide `dim`.
        threshold: the least cosine to merge at; at 1 or more this is a plain block.
        protected: number of tokens at the front that are never merged; the default protects the class token.
        proportional: count a token as the number of tokens it stands for, by adding the log of its size to its logit (as in
            ToMe, arXiv 2210.09461).
        expansion: width of the MLP as a multiple of `dim`.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        threshold: float,
        protected: int = 1,
        proportional: bool = True,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads ({heads}) must divide dim ({dim})")
        self.heads, self.threshold, self.protected, self.proportional = heads, threshold, protected, proportional
        self.before_attention = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim)
        )

    def forward(self, tokens: Tensor, sizes: Tensor | None = None) -> Merged:
        """The block's merged output for `tokens` `[B, N, dim]`, which stand for `sizes` `[B, N]` tokens each."""
        match(tokens=(tokens, f"B N {self.out.in_features}"))
        merged = merge(self.attend(tokens, sizes), sizes, threshold=self.threshold, protected=self.protected)
        return replace(merged, tokens=merged.tokens + self.mlp(merged.tokens))

    def attend(self, tokens: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The first half of the block: `tokens` plus the output of attention."""
        qkv = self.project(self.before_attention(tokens)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, N, D]
        bias = sizes.log().to(q.dtype)[:, None, None] if self.proportional and sizes is not None else None
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return tokens + self.out(context.transpose(1, 2).flatten(2))


def _weights(features: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    unit = F.normalize(features, dim=-1)
    cosine = unit[:, 0::2] @ unit[:, 1::2].mT  # [B, T, S]
    # Clamp at the excess of a cosine of 1: a cosine that rounds above 1 must not pass a threshold of 1.
    excess = (cosine - threshold).clamp(0, max(1 - threshold, 0))
    with torch.no_grad():  # 1 at or above the mean, else 0; signs, because comparisons are slow on a CPU
        above = excess * excess.sign().sum(1, keepdim=True) - excess.sum(1, keepdim=True) * ROUNDING
        chosen = above.sign().relu()
    excess = excess * chosen
    total = excess.sum(1, keepdim=True)
    unmatched = total == 0
    kept = unmatched.any(0)  # [1, S]
    return excess * (~kept / torch.where(unmatched, 1, total)), kept[0]


def _places(merged: Merged) -> Tensor:
    """Index of each original token in the concatenation of merged tokens and sources: `[N]`."""
    (_, t, s), p, kept = merged.weights.shape, merged.protected, merged.kept
    index = torch.empty(p + t + s, dtype=torch.long, device=kept.device)
    index[:p] = torch.arange(p, device=kept.device)
    index[p::2] = torch.arange(p, p + t, device=kept.device)
    apart = merged.tokens.shape[1] + torch.arange(s, device=kept.device)
    index[p + 1 :: 2] = torch.where(kept, p + t + kept.cumsum(0) - 1, apart)
    return index


def _check(
    tokens: Tensor, sizes: Tensor | None, features: Tensor | None, threshold: float, protected: int
) -> tuple[Tensor, Tensor]:
    """Check the arguments, and return sizes and features in at least float32."""
    n = match(tokens=(tokens, "B N C"))["N"]
    if threshold < 0:
        raise ValueError(
            f"threshold is {threshold}, expected at least 0: tokens that point away from each other do not merge"
        )
    if not 0 <= protected <= n:
        raise ValueError(f"protected is {protected}, there are {n} tokens")
    wide = torch.promote_types(tokens.dtype, torch.float32)
    sizes = tokens.new_ones(tokens.shape[:2], dtype=wide) if sizes is None else sizes.to(wide)
    features = tokens if features is None else features
    match(tokens=(tokens, "B N C"), sizes=(sizes.to(tokens.dtype), "B N"), features=(features, "B N F"))
    return sizes, features.to(wide)
