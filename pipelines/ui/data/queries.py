"""SQL over the lake's tables in a process of its own, so that a query that takes too long can be ended."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import polars as pl

from tocsin.pipelines.runtime import ConfigError, TocsinError, Unavailable
from tocsin.pipelines.runtime.lake.storage import Lake

ROWS, SECONDS = 1000, 20.0
"""Most rows of an answer, and most seconds that a query may take."""
START_S = 60.0
"""Seconds that the process may take to start."""
LENGTH = 20_000
"""Most characters of a query."""
FILES = re.compile(r"(?:read|scan)_\w+", re.IGNORECASE)
"""Polars' table functions for files, such as `read_csv`. Nothing else in its SQL opens a file."""


class Queries:
    """Runs one query at a time.

    Guarantee: a query changes nothing and opens no file but those of the lake's tables. One that exceeds its time or its memory
    ends only its own process.

    Args:
        rows: the most rows of an answer.
        seconds: the most time of a query.
    """

    def __init__(self, lake: Lake, *, rows: int = ROWS, seconds: float = SECONDS) -> None:
        self._lake, self.rows, self.seconds = lake, rows, seconds
        self._lock = threading.Lock()
        self._process: Any = None
        self._connection: Connection | None = None

    def ask(self, sql: str) -> tuple[pl.DataFrame, bool]:
        """The answer, and whether it has more rows than are returned.

        Raises:
            ConfigError: the SQL is wrong, or reads a file.
            Unavailable: it took too long, or too much memory.
        """
        only_tables(sql)
        with self._lock:
            connection = self._connected()
            try:
                connection.send(sql)
                if not connection.poll(self.seconds):
                    raise Unavailable(
                        f"query: expected an answer within {self.seconds:g} s, got none; ask for less: add WHERE event_date >= ..."
                    )
                answer = connection.recv()
            except (OSError, EOFError) as reason:
                self._end()
                raise Unavailable(
                    f"query: expected an answer, got {type(reason).__name__}: its process ended, most often for its memory; ask "
                    "for less"
                ) from reason
            except Unavailable:
                self._end()
                raise
        if isinstance(answer, TocsinError):
            raise answer
        return answer.head(self.rows), answer.height > self.rows

    def close(self) -> None:
        """End the process. A query that runs fails."""
        self._end()

    def _connected(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._connection:
            return self._connection
        self._end()
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, self._lake, self.rows + 1), name="tocsin queries", daemon=True
        )
        self._process.start()
        other.close()
        if not self._connection.poll(START_S):
            self._end()
            raise Unavailable(
                f"query: expected its process to start within {START_S:.0f} s; the machine is busy, try again"
            )
        self._connection.recv()
        return self._connection

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._connection:
            self._connection.close()
            self._connection = None


def only_tables(sql: str) -> None:
    """Refuse a query that may open a file.

    Raises:
        ConfigError: it names a function that reads files, or it is too long.
    """
    if len(sql) > LENGTH:
        raise ConfigError(f"query: expected at most {LENGTH:,} characters, got {len(sql):,}; shorten it")
    if found := FILES.search(sql):
        raise ConfigError(
            f"query: expected only tables of the lake, got {found[0]}, which reads files; use `tocsin query`"
        )


def _serve(connection: Connection, lake: Lake, limit: int) -> None:
    """Answer queries until the other end closes."""
    with suppress(OSError):
        os.nice(10)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, the system ends this process first
    from tocsin.pipelines.query import query

    connection.send("ready")
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            sql = connection.recv()
            try:
                answer: Any = query(sql, lake=lake, limit=limit)
            except TocsinError as reason:
                answer = type(reason)(str(reason))
            except BaseException as reason:  # a panic in Polars is no Exception
                answer = ConfigError(f"query: expected an answer, got {type(reason).__name__}: {str(reason)[:300]}")
            connection.send(answer)
