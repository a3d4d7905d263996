"""W3C trace contexts, as producers put them into the headers `traceparent` and `tracestate` of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

TRACEPARENT, TRACESTATE = TRACE = ("traceparent", "tracestate")
"""The headers, by the names that OpenTelemetry gives them in Kafka."""
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,200})?")
_STATE = re.compile(r"[ -~]{0,512}")
"""W3C asks everyone to pass on so many characters; a longer `tracestate` is left out."""
_LONGEST = 600
"""Characters of a header that are looked at. One that is longer is not valid."""
_SAMPLED, _KNOWN_FLAGS = 1, 3
Headers = Sequence[tuple[str, bytes | None]]
"""Of a record."""


class TraceContext(NamedTuple):
    """Which trace something belongs to, and which span of it is its parent.

    Args:
        traceparent, tracestate: as they were read; "" for no `tracestate`.
    """

    traceparent: str
    tracestate: str = ""

    @classmethod
    def read(cls, headers: Headers) -> Self | None:
        """The context in a record's headers; None: there is none, or it is not valid."""
        return cls.of(*unchecked(headers))

    @classmethod
    def of(cls, traceparent: str, tracestate: str) -> Self | None:
        """The context that two headers give; None: it is not valid."""
        match = _FORM.fullmatch(traceparent)
        if match is None or (match[1] == "00" and match[5]):
            return None
        return cls(traceparent, tracestate if _STATE.fullmatch(tracestate) else "")

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the caller may have recorded the trace."""
        return bool(self.flags & _SAMPLED)

    @property
    def flags(self) -> int:
        """Those that are known today: sampled, and whether the trace's id is random."""
        return int(self.traceparent[53:55], 16) & _KNOWN_FLAGS

    def child(self, span_id: str) -> Self:
        """The context of what a span of this trace causes."""
        return self._replace(traceparent=f"00-{self.trace_id}-{span_id}-{self.flags:02x}")


def unchecked(headers: Headers) -> tuple[str, str]:
    """`traceparent` and `tracestate` as they are in a record's headers; "" for none. The last header of a name counts."""
    found = dict(headers)
    parent, state = found.get(TRACEPARENT) or b"", found.get(TRACESTATE) or b""
    return parent[:_LONGEST].decode("ascii", "replace"), state[:_LONGEST].decode("ascii", "replace")
