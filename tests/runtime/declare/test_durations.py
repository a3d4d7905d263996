"""Durations and sizes as people write them."""

import pytest

from tocsin.pipelines.runtime.declare.durations import milliseconds, size
from tocsin.pipelines.runtime.declare.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "ms"),
    [("20ms", 20), ("5s", 5000), (" 1.5 min ", 90_000), ("2h", 7_200_000), ("30d", 2_592_000_000), ("0s", 0)],
)
def test_a_duration_is_read_in_ms(text: str, ms: int) -> None:
    assert milliseconds(text) == ms


@pytest.mark.parametrize(("text", "bytes_"), [("512KB", 524_288), ("64MB", 1 << 26), ("1.5GB", 3 << 29), ("10B", 10)])
def test_a_size_is_read_in_bytes(text: str, bytes_: int) -> None:
    assert size(text) == bytes_


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 parsecs", "5S", "1,5s", "5s 5s", "9" * 400 + "s", 5, None])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    for read, example in ((milliseconds, "15min"), (size, "64MB")):
        with pytest.raises(ConfigError, match=rf"expected .*{example}.*, got ") as refused:
            read(text)
        assert "\n" not in str(refused.value)
