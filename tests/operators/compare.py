"""A fast form against its naive form: values and gradients, in each dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 6e-2}


def random(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Normal float64 tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def strided(tensor: Tensor) -> Tensor:
    """The same values, not contiguous."""
    spread = torch.stack((tensor, torch.full_like(tensor, 7)), dim=-1)
    return spread[..., 0]


def assert_same(
    fast: Callable[..., Any],
    naive: Callable[..., Any],
    tensors: Sequence[Tensor],
    *,
    dtype: torch.dtype,
    **options: Any,
) -> None:
    """`fast` in `dtype` gives what `naive` gives in float64 on the same rounded inputs, and so do all gradients.

    Either may return a tensor or a tuple of tensors; those of floating point are compared by value and must keep `dtype`.
    """
    results, gradients = [], []
    for function, kind in ((fast, dtype), (naive, torch.float64)):
        leaves = [t.to(dtype).to(kind).requires_grad_() for t in tensors]
        out = function(*leaves, **options)
        outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o.is_floating_point()]
        assert all(o.dtype == kind for o in outs), [o.dtype for o in outs]
        loss = torch.stack([_mixed(o) for o in outs]).sum()
        grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        results.append([o.detach().double() for o in outs])
        gradients.append([g.double() for g in grads])
    close = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(results[0], results[1], **close)
    torch.testing.assert_close(gradients[0], gradients[1], **close)


def _mixed(out: Tensor) -> Tensor:
    """A scalar to which each element contributes differently."""
    return (out.double().flatten() * torch.linspace(-1, 1, out.numel(), dtype=torch.float64)).sum()
