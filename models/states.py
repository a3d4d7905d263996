"""States of recurrent models: named tuples of tensors, a row for each camera."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

State = TypeVar("State", bound=tuple[Any, ...])


def select(mask: Tensor, these: State, those: State) -> State:
    """The state that is `these` in the rows where `mask` (`[B]` bool) is true, and `those` in the others."""
    made: Any = type(these)
    state: State = made(*(torch.where(rowwise(mask, a), a, b) for a, b in zip(these, those, strict=True)))
    return state


def rowwise(mask: Tensor, tensor: Tensor) -> Tensor:
    """A mask `[B]` with as many dimensions as `tensor` `[B, ...]`."""
    return mask.view(-1, *[1] * (tensor.dim() - 1))
