"""By hand: the same loop for Arrow messages, each a stream of many readings."""

import sys

import loop_windows
import polars as pl
import pyarrow as pa


def decode(values):
    """The readings of a poll."""
    return pl.from_arrow(pa.concat_tables([pa.ipc.open_stream(value).read_all() for value in values]))


if __name__ == "__main__":
    loop_windows.POLL = 50  # messages of a thousand rows
    loop_windows.main(sys.argv[1], decode)
