"""Named dimensions: declare in one line which sizes must agree; an error names those that do not."""

from __future__ import annotations

import torch
from torch import Tensor


def match(**tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Check that tensors agree on their named dimensions, and return the size of each.

    `match(q=(q, "B H T D"), k=(k, "B H S D"))` gives `{"B": 2, "H": 8, "T": 1, "D": 64, "S": 512}`. A number instead of a name is
    a required size. Nothing is broadcast.

    Args:
        tensors: each tensor with its dimensions, separated by spaces.

    Raises:
        ValueError: if two tensors differ in a dimension or in device. Also if they differ in dtype, both are floating point and
            autocast is off.
    """
    sizes: dict[str, int] = {}
    origin: dict[str, str] = {}  # which tensor gave a dimension its size
    for name, (tensor, dims) in tensors.items():
        names, shape = dims.split(), list(tensor.shape)
        if len(names) != len(shape):
            raise ValueError(f"{name} must be [{', '.join(names)}], {len(names)} dimensions; got {len(shape)}: {shape}")
        for dim, size in zip(names, shape, strict=True):
            if dim.isdigit() and size != int(dim):
                raise ValueError(f"{name} is {shape}, expected [{', '.join(names)}]: {size} must be {dim}")
            if size != sizes.setdefault(dim, size):
                raise ValueError(f"{name} is {shape} with {dim} = {size}, {origin[dim]} has {dim} = {sizes[dim]}")
            origin.setdefault(dim, name)
    _same_kind({name: tensor for name, (tensor, _) in tensors.items()})
    return sizes


def _same_kind(tensors: dict[str, Tensor]) -> None:
    first, reference = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.device != reference.device:
            raise ValueError(f"{name} is on {tensor.device}, {first} on {reference.device}; move one of them")
        if not (tensor.is_floating_point() and reference.is_floating_point()) or tensor.dtype == reference.dtype:
            continue
        if not torch.is_autocast_enabled(reference.device.type):
            raise ValueError(f"{name} is {_short(tensor)}, {first} is {_short(reference)}; cast one of them")


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
