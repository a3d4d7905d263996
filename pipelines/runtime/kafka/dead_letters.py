"""Dead letters: records that can't be processed, kept with the reason and, byte for byte, the original."""

from __future__ import annotations

import hashlib
import posixpath
import uuid
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import orjson
from pyarrow import fs

from tocsin.pipelines.runtime.declare import names
from tocsin.pipelines.runtime.declare.dead_letter import KEPT, MESSAGE_LIMIT, DeadLetter
from tocsin.pipelines.runtime.telemetry import progress

if TYPE_CHECKING:
    from tocsin.pipelines.runtime.declare.dead_letter import Refusal

# Brokers accept 1 MiB by default. A larger record fails its whole transaction.
SIZE_LIMIT = 512 * 1024
# Several rows of one message can be dead letters with the same original. Only a small original is repeated.
ROW_SIZE_LIMIT = SIZE_LIMIT // 100

SHOWN = 4096
"""Bytes of a value that a person is shown."""


@dataclass
class DeadLetterTally:
    """The number of a shard's dead letters since its very first start, and the newest one; kept in its snapshots.

    Args:
        newest: topic, partition, offset, row, stage, error, message and `at`, ms since the epoch.
    """

    count: int = 0
    newest: dict[str, Any] | None = None

    def note(self, dead_letters: Sequence[DeadLetter | Refusal], topic: str, at: int) -> None:
        """Count letters. The last one is the newest."""
        if not dead_letters:
            return
        self.count += len(dead_letters)
        fields = {
            name: getattr(dead_letters[-1], name)
            for name in ("partition", "offset", "row", "stage", "error", "message")
        }
        message = fields["message"][:MESSAGE_LIMIT].encode("utf-8", "replace").decode()  # snapshots store it as JSON
        self.newest = {"topic": topic, **fields, "message": message, "at": at}

    def facts(self) -> dict[str, Any]:
        """The tally as snapshots store it and `status` shows it."""
        return {"dead_letters": self.count, "dead_letter": self.newest}

    @classmethod
    def of(cls, *facts: Mapping[str, Any]) -> DeadLetterTally:
        """Combine the tallies in the facts of snapshots. Snapshots written before there was a tally count as empty."""
        newest = [fact["dead_letter"] for fact in facts if fact.get("dead_letter")]
        return cls(sum(fact.get("dead_letters", 0) for fact in facts), max(newest, key=itemgetter("at"), default=None))


class OriginalStore:
    """Originals too large for a dead-letter topic, as files `<lake>/_dead/<sha256>`.

    Guarantee: a file is complete or absent. The same content is the same file, so writing it again after a crash
    changes nothing.

    Args:
        filesystem: holds the lake.
        lake: the lake's path in `filesystem`; empty for its root.
        uri: the lake's address for readers, such as `s3://bucket/lake`; default `lake`.
    """

    def __init__(self, filesystem: fs.FileSystem, lake: str, uri: str | None = None) -> None:
        self._filesystem = filesystem
        self._directory = posixpath.join(lake, names.DEAD_LETTERS)
        self._uri = posixpath.join(uri or lake, names.DEAD_LETTERS)
        self._last = ""  # rows of one message follow each other: check the file system once

    def get(self, digest: str) -> bytes:
        """What `put` stored under this SHA-256.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: its content is not what was stored.
        """
        path = f"{self._directory}/{digest}"
        with self._filesystem.open_input_stream(path) as stream:
            content = stream.read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{self._uri}/{digest}: expected a file with this SHA-256, got another")
        return content

    def put(self, content: bytes) -> tuple[str, str]:
        """Store `content` unless it is stored already. Returns its URI and its SHA-256 in hexadecimal."""
        digest = hashlib.sha256(content).hexdigest()
        path = f"{self._directory}/{digest}"
        if digest != self._last and self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            self._filesystem.create_dir(self._directory, recursive=True)
            temporary = f"{path}.{uuid.uuid4().hex}"
            with self._filesystem.open_output_stream(temporary) as stream:
                stream.write(content)
            self._filesystem.move(temporary, path)
            progress.made()
        self._last = digest
        return f"{self._uri}/{digest}", digest


def store_original(dead_letter: DeadLetter, store: OriginalStore) -> DeadLetter:
    """Replace an original that is too large by a reference to it. Call this before the transaction begins.

    If the record exceeds 512 KB (5 KB for one row of a message), its value goes to the store. The headers `tocsin-dead-uri`,
    `tocsin-dead-sha256` and `tocsin-dead-size` (bytes) refer to it. If key and headers alone exceed 512 KB, the
    whole record goes there, as JSON `{key, value, headers}` with bytes in base64, and `tocsin-dead-format` is `record`.

    Returns:
        `dead_letter` itself if it is small enough; otherwise one whose value is None.
    """
    value = dead_letter.value or b""
    overhead = len(dead_letter.key or b"") + sum(
        len(name) + len(content or b"") for name, content in dead_letter.headers
    )
    limit = SIZE_LIMIT if dead_letter.row is None else ROW_SIZE_LIMIT
    if overhead > SIZE_LIMIT:
        record = {"key": dead_letter.key, "value": dead_letter.value, "headers": dead_letter.headers}
        content = orjson.dumps(record, default=lambda data: b64encode(data).decode())
        dead_letter = replace(dead_letter, key=None, headers=(), kept=((f"{KEPT}format", b"record"),))
    elif value and overhead + len(value) > limit:
        content = value
    else:
        return dead_letter
    uri, digest = store.put(content)
    reference = {"uri": uri, "sha256": digest, "size": str(len(content))}
    kept = (*dead_letter.kept, *((f"{KEPT}{name}", text.encode()) for name, text in reference.items()))
    return replace(dead_letter, value=None, kept=kept)


def load_original(dead_letter: DeadLetter, store: OriginalStore) -> DeadLetter:
    """The inverse of `store_original`: the original as it was read.

    Raises:
        FileNotFoundError, ValueError: the store no longer has it.
    """
    if not dead_letter.kept:
        return dead_letter
    reference = {name.removeprefix(KEPT): content.decode() for name, content in dead_letter.kept}
    content = store.get(reference["sha256"])
    if reference.get("format") == "record":
        record = orjson.loads(content)
        key, value = (_bytes(record[part]) for part in ("key", "value"))
        headers = tuple((name, _bytes(text)) for name, text in record["headers"])
        return replace(dead_letter, key=key, value=value, headers=headers, kept=())
    return replace(dead_letter, value=content, kept=())


def readable(value: bytes) -> str:
    """The first bytes of a value, for a person: UTF-8 as text, anything else in hexadecimal."""
    shown = value[:SHOWN]
    more = f"\n... {len(value):,} bytes in all" if len(value) > len(shown) else ""
    try:
        return shown.decode() + more
    except UnicodeDecodeError:
        return shown.hex(" ") + more


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text)
