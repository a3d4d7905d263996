"""Logs as JSON, one object a line, with the record that a line is about. Dead letters are logged at a limited rate."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tocsin.pipelines.runtime.declare.trace import TraceContext

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.dead_letter import DeadLetter

log = logging.getLogger(__name__)
FORMAT, LEVEL = "TOCSIN_LOGS__FORMAT", "TOCSIN_LOGS__LEVEL"
"""Environment variables, so that the settings reach every process of a deployment, readers included."""
FIELDS = (
    *("pipeline", "shard", "topic", "partition", "offset", "row", "asset", "stage", "error", "count"),
    *("trace_id", "span_id"),
)
"""A line's fields beside ts, level, logger, message and exception, where they are known."""
EVERY_S = 1.0
KINDS = 20
"""Kinds of dead letters, each a stage and an error, that have their own lines. Further kinds share one."""

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


def without_password(address: str) -> str:
    """An address with its password masked, also one in its query, as cameras have it."""
    masked = re.sub(r"(://[^/@\s:]*:)(?:[^/\s]*|[^@\s]*)@", r"\1***@", address)
    return re.sub(r"(?i)([?&][\w-]*(?:pass|passwd|password|pwd|secret|token)=)[^&\s'\"]+", r"\1***", masked)


def one_line(reason: BaseException, limit: int = 400) -> str:
    """An exception's kind and text in one line, without passwords. For an error in a Ray task, the task's own exception."""
    reason = cause if isinstance(cause := getattr(reason, "cause", None), BaseException) else reason
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(reason)).replace("\u21b3", ":")  # deltalake colours its text
    text = without_password(" ".join(plain.split()))
    line = f"{type(reason).__name__}: {text}" if text else type(reason).__name__
    return line if len(line) <= limit else f"{line[:limit]} ..."


def start(**fields: Any) -> None:
    """Configure this process to log to stderr, as the environment says. Ray keeps stderr in its session's folder.

    Args:
        fields: of every line, such as `pipeline`.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Text(fields) if os.environ.get(FORMAT) == "text" else Json(fields))
    logging.basicConfig(force=True, handlers=[handler], level=logging.WARNING)  # libraries log only warnings and errors
    logging.getLogger("tocsin").setLevel(os.environ.get(LEVEL, "info").upper())


def about(**fields: Any) -> None:
    """Set fields of this thread's lines, such as `shard`."""
    _about.set({**_about.get(), **fields})


class Json(logging.Formatter):
    """One JSON object a line. Passwords in addresses are masked."""

    def __init__(self, fields: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "ts": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": without_password(record.getMessage()),
            **self._known(record),
        }
        if record.exc_info:
            line["exception"] = without_password(self.formatException(record.exc_info))
        return json.dumps(line, default=str)

    def _known(self, record: logging.LogRecord) -> dict[str, Any]:
        values = {**self._fields, **_about.get(), **vars(record)}
        return {name: values[name] for name in FIELDS if values.get(name) is not None}


class Text(Json):
    """Log lines for people: time, level, shard, message."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line, and its traceback below."""
        at, known = datetime.fromtimestamp(record.created).isoformat(" ", timespec="milliseconds"), self._known(record)
        where = "/".join(str(known[name]) for name in ("pipeline", "shard") if name in known)
        line = f"{at} {record.levelname} {where or record.name}: {record.getMessage()}"
        return without_password(
            "\n".join([line, *([self.formatException(record.exc_info)] if record.exc_info else [])])
        )


@dataclass
class _Kind:
    """Dead letters of one stage and error that have not been logged yet."""

    logged_at: float = -EVERY_S
    waiting: int = 0
    example: DeadLetter | None = None


class DeadLetterLog:
    """Logs dead letters: for each stage and error at most one line a second, with the count since the previous line.

    Ten thousand bad records a second give ten thousand dead letters, but one line.
    """

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def note(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Add a step's dead letters. Call it for a step without any, too: a delayed line may be due."""
        if not dead_letters and not self._kinds:
            return
        for dead_letter in dead_letters:
            name = dead_letter.stage, dead_letter.error
            if name not in self._kinds and len(self._kinds) >= KINDS:
                name = "", ""
            kind = self._kinds.setdefault(name, _Kind())
            kind.waiting += 1
            kind.example = kind.example or dead_letter
        now = time.monotonic()
        for name, kind in [(n, k) for n, k in self._kinds.items() if now - k.logged_at >= EVERY_S]:
            if kind.example:
                _mention(kind.example, kind.waiting)
                self._kinds[name] = _Kind(now)
            else:
                del self._kinds[name]


def _mention(dead_letter: DeadLetter, count: int) -> None:
    others = f"; and {count - 1} more like it" if count > 1 else ""
    place = {name: getattr(dead_letter, name) for name in ("topic", "partition", "offset", "row", "stage", "error")}
    asset = dead_letter.key.decode("utf-8", "replace") if dead_letter.key else None
    context = TraceContext.read(dead_letter.headers)
    trace = {"trace_id": context.trace_id, "span_id": context.span_id} if context else {}
    log.warning("%s%s", dead_letter, others, extra={**place, **trace, "asset": asset, "count": count})
