"""Quix Streams: the mean over each engine's last 30 readings."""

import os

import parquet_files
from quixstreams import Application
from quixstreams.dataframe.windows.aggregations import Latest, Mean
from quixstreams.sinks import BatchingSink


class ParquetSink(BatchingSink):
    """A file for each batch, which is what came between two commits."""

    def write(self, batch):
        parquet_files.write(
            [{"unit": int(item.key), "cycle": item.value["cycle"], "mean": item.value["mean"]} for item in batch]
        )


def decode(reading):
    reading.pop("unit")
    cycle = reading.pop("cycle")
    return {"cycle": cycle, "value": sum(reading.values()) / len(reading)}


app = Application(
    broker_address=os.environ["KAFKA"],
    consumer_group=os.environ["OUT"].replace("/", "-"),
    auto_offset_reset="earliest",
    state_dir=f"{os.environ['OUT']}.state",
)
readings = app.dataframe(app.topic(os.environ["TOPIC"], value_deserializer="json", key_deserializer="str"))
means = readings.apply(decode).sliding_count_window(30).agg(mean=Mean("value"), cycle=Latest("cycle")).final()
means.sink(ParquetSink())
app.run()
