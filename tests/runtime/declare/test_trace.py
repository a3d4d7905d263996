"""Trace contexts in records' headers: which are valid, and which polls have one."""

from __future__ import annotations

import pickle

import pytest
from kafka.consumer.fetcher import ConsumerRecord

from tocsin.pipelines.runtime.declare.records import Records, TracedPoll
from tocsin.pipelines.runtime.declare.trace import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def _read(parent: str, state: bytes | None = None) -> TraceContext | None:
    return TraceContext.read([("traceparent", parent.encode()), ("tracestate", state)])


def test_a_context_is_read_and_passed_on_as_it_came() -> None:
    context = _read(PARENT, b"vendor=a,other=b")
    assert context == (PARENT, "vendor=a,other=b")
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, SPAN, True)


def test_the_last_header_of_a_name_counts() -> None:
    headers = [("traceparent", b"nothing"), ("x", None), ("traceparent", PARENT.encode())]
    assert TraceContext.read(headers) == (PARENT, "")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        TRACE,
        PARENT.upper(),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"{PARENT}-more",
        f"{PARENT}\n00",
        f"01-{TRACE}-{SPAN}-01-{'x' * 1000}",
        f"{PARENT}{' ' * 1000}x",
    ],
)
def test_a_header_that_is_not_a_context_is_as_none(parent: str) -> None:
    assert _read(parent, b"vendor=a") is None


def test_a_header_without_a_value_or_in_no_encoding_is_as_none() -> None:
    assert TraceContext.read([("traceparent", None)]) is None
    assert TraceContext.read([("traceparent", b"\xff" * 55)]) is None
    assert TraceContext.read([]) is None


@pytest.mark.parametrize("state", [b"x" * 513, b"vendor=\x00", b"vendor=\xff", None])
def test_a_state_that_cannot_be_passed_on_is_left_out(state: bytes | None) -> None:
    assert _read(PARENT, state) == (PARENT, "")


def test_a_later_version_is_passed_on_and_its_child_has_ours() -> None:
    context = _read(f"cc-{TRACE}-{SPAN}-ff-more")
    assert context and context.traceparent == f"cc-{TRACE}-{SPAN}-ff-more"
    assert context.child("1" * 16).traceparent == f"00-{TRACE}-{'1' * 16}-03"


def test_a_child_is_of_the_same_trace_and_as_sampled() -> None:
    for flags, sampled in (("00", False), ("01", True), ("02", False), ("03", True)):
        context = _read(f"00-{TRACE}-{SPAN}-{flags}", b"vendor=a")
        assert context and context.sampled is sampled
        assert context.child("1" * 16) == (f"00-{TRACE}-{'1' * 16}-{flags}", "vendor=a")


def _records(*headers: list[tuple[str, bytes | None]]) -> Records:
    made = [ConsumerRecord("t", 1, 0, 40 + n, 0, 0, None, b"{}", h, None, 0, 0, 0) for n, h in enumerate(headers)]
    return Records.of(made)


def test_a_poll_is_kept_if_a_record_came_with_a_context() -> None:
    plain, traced = [("content-type", b"application/json")], [("traceparent", PARENT.encode())]
    found = TracedPoll.of(_records([], plain, [*plain, *traced]))
    assert found and [found.find(1, offset) for offset in range(39, 44)] == [(), [], plain, [*plain, *traced], ()]
    assert found.find(0, 42) == found.find(2, 42) == ()
    assert pickle.loads(pickle.dumps(found)).find(1, 42) == [*plain, *traced]  # as it comes from another process
    assert TracedPoll.of(_records([], plain)) is TracedPoll.of(_records()) is None
