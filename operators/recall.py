"""Recall: each channel of a row is predicted from remembered rows whose other channels are alike."""

from __future__ import annotations

import torch
from torch import Tensor

from tocsin.operators.shapes import match

FAR = 4.0
"""Distances beyond this count as this much, so that a single wrong channel does not hide which rows are alike."""


def recall_attention(
    q: Tensor, k: Tensor, q_known: Tensor, k_known: Tensor, *, temperature: float = 0.5, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention from rows to remembered rows, once for each channel, which itself is left out of the scores.

    A channel that agrees with what is recalled fits the other channels; one that does not is wrong, or the state is new. The
    score of a remembered row is the mean squared distance over the other channels that both rows know, each limited to `FAR`.
    Source: auto-associative kernel regression, as used to validate sensors of plants. Leaving the channel itself out, the limit
    and the certainty are this project's.

    Args:
        q: `[B, T, C]`, any float dtype, channels in comparable units; the values of unknown channels are not used.
        k: `[B, R, C]`, the remembered rows.
        q_known, k_known: `[B, T, C]` and `[B, R, C]` bool, True where a channel is known.
        temperature: mean squared distance by which a weight falls to 1/e.
        own: `[T] int64`, the place in `k` of each query that is itself remembered, to be left out. None: no query is.

    Returns:
        What is recalled, and the certainty, log of the sum of the weights before they are normalised, both `[B, T, C]`. A channel
        that no remembered row knows is recalled as 0 with the certainty of the smallest finite number.

    Raises:
        ValueError: if the shapes or dtypes do not fit together, or the temperature is not positive.
    """
    _check(q, k, q_known, k_known, temperature, own)
    q, k = q.masked_fill(~q_known, 0.0), k.masked_fill(~k_known, 0.0)
    both = (q_known.unsqueeze(2) & k_known.unsqueeze(1)).to(q.dtype)  # [B, T, R, C]
    away = (q.unsqueeze(2) - k.unsqueeze(1)).clamp(-FAR, FAR).square() * both
    others = (both.sum(-1, keepdim=True) - both).clamp(min=1)
    scores = (away - away.sum(-1, keepdim=True)) / (others * temperature)
    hidden = ~k_known.unsqueeze(1)
    if own is not None:
        at = own.unsqueeze(1) == torch.arange(k.shape[1], device=k.device)
        hidden = hidden | at[None, :, :, None]
    least = torch.finfo(q.dtype).min
    scores = scores.masked_fill(hidden, least)
    found = ~hidden.all(2)  # [B, T, C] or [B, 1, C]
    recalled = (torch.softmax(scores, 2) * k.unsqueeze(1)).sum(2) * found
    return recalled, torch.logsumexp(scores, 2).masked_fill(~found, least)


def naive_recall_attention(
    q: Tensor, k: Tensor, q_known: Tensor, k_known: Tensor, *, temperature: float = 0.5, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`recall_attention` a channel at a time: the oracle of its tests. Arguments and results are the same."""
    _check(q, k, q_known, k_known, temperature, own)
    recalled, certainty = torch.zeros_like(q), torch.full_like(q, torch.finfo(q.dtype).min)
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            for c in range(q.shape[2]):
                weights, values = [], []
                for r in range(k.shape[1]):
                    if not k_known[b, r, c] or (own is not None and int(own[t]) == r):
                        continue
                    others = [
                        (q[b, t, j] - k[b, r, j]).clamp(-FAR, FAR) ** 2
                        for j in range(q.shape[2])
                        if j != c and q_known[b, t, j] and k_known[b, r, j]
                    ]
                    away = sum(others, q.new_zeros(())) / max(len(others), 1)
                    weights.append(torch.exp(-away / temperature))
                    values.append(k[b, r, c])
                if weights:
                    total = torch.stack(weights).sum()
                    recalled[b, t, c] = (torch.stack(weights) * torch.stack(values)).sum() / total
                    certainty[b, t, c] = total.log()
    return recalled, certainty


def _check(q: Tensor, k: Tensor, q_known: Tensor, k_known: Tensor, temperature: float, own: Tensor | None) -> None:
    match(q=(q, "B T C"), k=(k, "B R C"), q_known=(q_known, "B T C"), k_known=(k_known, "B R C"))
    if temperature <= 0:
        raise ValueError(f"temperature: expected more than 0, got {temperature:g}")
    if own is not None:
        match(q=(q, "B T C"), own=(own, "T"))
