"""Attention pooling: a sequence becomes one vector, a learned weighted mean of its steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tocsin.operators.shapes import match


def additive_attention(
    states: Tensor, weight: Tensor, bias: Tensor, score: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weighted mean over time, with weights `softmax_t(score . tanh(weight h_t + bias))`.

    Source: additive attention (Bahdanau et al., arXiv 1409.0473), used as pooling with one learned query.

    Args:
        states: `[B, T, D]`, any float dtype.
        weight: `[H, D]`, `W1`.
        bias: `[H]`, `b`.
        score: `[H]`, `w2`.
        mask: `[B, T] bool`, True where a step counts; None counts every step. A row without a step gives zeros.

    Returns:
        Context `[B, D]` and weights `[B, T]`, which sum to 1 over the steps that count.

    Raises:
        ValueError: if the shapes or dtypes do not fit together.
    """
    _check(states, weight, bias, score, mask)
    logits = torch.tanh(states @ weight.T + bias) @ score  # [B, T]
    if mask is None:
        weights = torch.softmax(logits, dim=1)
    else:
        # A finite minimum instead of -inf: a fully masked row would give 0/0, in the gradient too.
        weights = torch.softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), dim=1) * mask
    context = (weights.unsqueeze(1) @ states).squeeze(1)  # [B, 1, T] @ [B, T, D]
    return context, weights


def naive_additive_attention(
    states: Tensor, weight: Tensor, bias: Tensor, score: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`additive_attention` step by step: the oracle of its tests. Arguments and results are the same."""
    _check(states, weight, bias, score, mask)
    contexts, rows = [], []
    for b, row in enumerate(states):
        counted = [t for t in range(len(row)) if mask is None or mask[b, t]]
        energies = {t: torch.exp(score.dot(torch.tanh(weight.mv(row[t]) + bias))) for t in counted}
        zero = row.new_zeros(())
        total = sum(energies.values(), zero)
        alphas = [energies[t] / total if t in energies else zero for t in range(len(row))]
        contexts.append(sum((alpha * h for alpha, h in zip(alphas, row, strict=True)), torch.zeros_like(row[0])))
        rows.append(torch.stack(alphas))
    return torch.stack(contexts), torch.stack(rows)


class AdditiveAttentionPool(nn.Module):
    """Additive attention pooling with learned parameters; see `additive_attention`.

    Args:
        dim: width D of a step.
        hidden: width H of the scoring layer.
    """

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Context `[B, D]` and weights `[B, T]` of `states` `[B, T, D]`."""
        return additive_attention(states, self.project.weight, self.project.bias, self.score.weight[0], mask)


def _check(states: Tensor, weight: Tensor, bias: Tensor, score: Tensor, mask: Tensor | None) -> None:
    match(states=(states, "B T D"), weight=(weight, "H D"), bias=(bias, "H"), score=(score, "H"))
    if mask is not None:
        match(states=(states, "B T D"), mask=(mask, "B T"))
