"""W3C trace contexts, as producers put them into the headers `traceparent` and `tracestate` of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Self

TRACEPARENT, TRACESTATE = TRACE = ("traceparent", "tracestate")
"""The headers, by the names that OpenTelemetry gives them in Kafka."""
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,200})?")
_SAMPLED, _KNOWN_FLAGS = 1, 3
_STATE_LIMIT = 512
"""Most characters of a `tracestate`, which W3C asks everyone to pass on; a longer one is left out."""


class TraceContext(NamedTuple):
    """Which trace something belongs to, and which span of it is its parent.

    Args:
        traceparent, tracestate: as they were read; "" for no `tracestate`.
    """

    traceparent: str
    tracestate: str = ""

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes | None]]) -> Self | None:
        """The context in a record's headers; None: there is none, or it is not valid. The last header of a name counts."""
        found = dict(headers)
        parent, state = ((found.get(name) or b"").decode("ascii", "replace").strip() for name in TRACE)
        match = _FORM.fullmatch(parent)
        if match is None or (match[1] == "00" and match[5]):
            return None
        return cls(parent, state if len(state) <= _STATE_LIMIT and re.fullmatch(r"[ -~]*", state) else "")

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
        return bool(self._flags & _SAMPLED)

    @property
    def _flags(self) -> int:
        return int(self.traceparent[53:55], 16)

    def child(self, span_id: str) -> Self:
        """The context of what a span of this trace causes."""
        return self._replace(traceparent=f"00-{self.trace_id}-{span_id}-{self._flags & _KNOWN_FLAGS:02x}")
