"""By hand: the same loop with the RUL network on each window."""

import sys

import loop_windows
import polars as pl
import torch
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.network import Recurrent

LENGTH, BATCH = 30, 512


class Ruls:
    """The rows of a poll, by the network; keeps each unit's last readings for the next poll."""

    def __init__(self):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self._model = Recurrent()
        self._features = list(self._model.features)
        self._tails = None

    def __call__(self, frame):
        frame = frame.select("unit", "cycle", *self._features, new=pl.lit(True))
        frame = frame if self._tails is None else pl.concat([self._tails, frame])
        frame = frame.sort("unit", maintain_order=True)
        is_full = pl.int_range(pl.len()).over("unit") >= LENGTH - 1
        ends = frame.select((is_full & pl.col("new")).arg_true()).to_series()
        self._tails = frame.group_by("unit", maintain_order=True).tail(LENGTH - 1).with_columns(new=pl.lit(False))
        if ends.is_empty():
            return None
        values = frame.select(pl.col(self._features).cast(pl.Float32)).to_numpy()
        windows = sliding_window_view(values, LENGTH, 0)[ends.to_numpy() - LENGTH + 1]
        parts = torch.from_numpy(windows).transpose(1, 2).split(BATCH)
        rul = torch.cat([self._model(part)["rul"] for part in parts]).numpy()
        return frame[ends].select("unit", "cycle").with_columns(rul=pl.Series(rul))


if __name__ == "__main__":
    loop_windows.main(sys.argv[1], judge=Ruls())
