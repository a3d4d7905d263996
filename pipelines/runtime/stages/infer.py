"""Runs a model on each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from tocsin.pipelines.runtime.declare.rows import Rows
from tocsin.pipelines.runtime.declare.stage import Stage, StepContext
from tocsin.pipelines.runtime.declare.stores import Stores


class Infer(Stage):
    """Runs a model on each row; its outputs become columns.

    Args:
        model: tensors `[B, ...]` -> `{name: [B] or [B, T] tensor}`; called with at most `batch` rows.
        tensor: the tensor of `Rows` that the model reads; several names are its arguments, in their order.
    """

    def __init__(
        self,
        model: Callable[..., Mapping[str, Tensor]],
        *,
        tensor: str | Sequence[str] = "window",
        batch: int = 512,
    ) -> None:
        self._model, self._batch = model, batch
        self._tensors = (tensor,) if isinstance(tensor, str) else tuple(tensor)

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return rows.with_columns({name: _arrow(t) for name, t in self._outputs(rows).items()})

    def _outputs(self, rows: Rows) -> dict[str, Tensor]:
        """Run the model over rows, at most `batch` of them at once."""
        given = (rows.tensors[name].split(self._batch) for name in self._tensors)
        parts = [self._model(*chunks) for chunks in zip(*given, strict=True)]
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


class Encode(Infer):
    """Runs a frozen network on each row; its outputs become tensors for later stages, not columns. Arguments as in `Infer`."""

    def __init__(
        self, model: Callable[[Tensor], Mapping[str, Tensor]], *, tensor: str = "pixels", batch: int = 32
    ) -> None:
        super().__init__(model, tensor=tensor, batch=batch)

    def step(self, rows: Rows, state: Stores, ctx: StepContext) -> Rows:
        return rows.with_tensors(**self._outputs(rows))


def _arrow(tensor: Tensor) -> pa.Array:
    """`[B]` as a column, `[B, T]` as a column of lists."""
    values = tensor.detach().cpu().contiguous().numpy()
    if values.ndim == 1:
        # NaN becomes null: Polars orders NaN above every number, so it would clear an alert.
        return pa.array(values, from_pandas=True)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
