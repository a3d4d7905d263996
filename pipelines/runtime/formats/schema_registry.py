"""A schema registry's client: fetches the schemas that messages name, once each."""

from __future__ import annotations

import http.client
import ssl
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, Request, build_opener

import orjson

from tocsin.pipelines.runtime.declare.errors import ConfigError, Refused, Unavailable
from tocsin.pipelines.runtime.formats.rows import RejectedError
from tocsin.pipelines.runtime.formats.volatile import SCHEMA_UNKNOWN

AVRO, PROTOBUF = "AVRO", "PROTOBUF"
"""Types of schemas, by the registry's names."""
PAUSES_S = (0.2, 0.5)
"""How long to wait before a request is sent again."""
UNKNOWN_S, MAX_UNKNOWN = 60.0, 10_000
"""For so long an unknown schema is not asked for again, and so many unknown ones are remembered."""
MAX_BYTES = 4 << 20
"""The largest answer. Confluent's own limit of a schema is 1 MB."""
MAX_DEPTH = 20
"""How deep schemas may refer to each other."""
_NOT_FOUND = (40401, 40402, 40403)
"""Error codes of a registry that knows no such subject, version or schema."""


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema as the registry has it.

    Args:
        id: the registry's, as messages name it.
        kind: `AVRO`, `PROTOBUF` or another type.
        text: the schema.
        references: the schemas that this one refers to, by the names under which it does.
    """

    id: int
    kind: str
    text: str
    references: Mapping[str, RegisteredSchema]


class SchemaRegistry:
    """Fetches schemas from a registry with Confluent's interface, such as Confluent's own, Karapace, Redpanda or Apicurio.

    The registry never changes a schema, so each is fetched once and kept. Redirects are not followed: they could carry the login
    to another host.

    Args:
        url: the registry's address.
        username, password: of a login with a password.
        token: of a login with a bearer token; it is used if both are given.
        certificates: those to trust, in PEM; "": the system's.
        timeout_s: limit of a request, seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        username: str = "",
        password: str = "",
        token: str = "",
        certificates: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        self._url, self._certificates, self._timeout_s = url.rstrip("/"), certificates, timeout_s
        self._headers = {"accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        elif username:
            self._headers["authorization"] = f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"
        self._schemas = dict[tuple[int, str], RegisteredSchema]()
        self._unknown = dict[str, float]()

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection's settings, which cannot be sent to another process."""
        return {name: value for name, value in vars(self).items() if name != "_opener"}

    def schema(self, id: int, *, serialized: bool = False, depth: int = 0) -> RegisteredSchema:
        """A schema by its id.

        Args:
            serialized: of a Protobuf schema, the text is a `FileDescriptorProto` in base64 instead of a `.proto` file.
            depth: how many schemas refer to this one.

        Raises:
            RejectedError: the registry has no such schema.
            Unavailable: the registry does not answer.
            Refused: it refuses the login, or the address is not a registry's.
            ConfigError: the certificates to trust are not PEM.
        """
        form = "?format=serialized" if serialized else ""
        if found := self._schemas.get((id, form)):
            return found
        answer = self._get(f"/schemas/ids/{id}{form}", f"schema {id}")
        if depth > MAX_DEPTH:
            raise RejectedError(
                "SchemaMismatch", f"schema {id}: expected at most {MAX_DEPTH} references in a row, got more"
            )
        references = {
            str(reference.get("name")): self._referred(reference, serialized=serialized, depth=depth + 1)
            for reference in answer.get("references") or ()
        }
        made = RegisteredSchema(id, answer.get("schemaType") or AVRO, answer["schema"], references)
        self._schemas[id, form] = made
        return made

    def check(self) -> str:
        """Ask the registry for the types of schemas that it knows.

        Raises:
            Unavailable, Refused: see `schema`.
        """
        return f"{self._url}: {', '.join(sorted(map(str, self._answer('/schemas/types'))))}"

    def _referred(self, reference: Mapping[str, Any], *, serialized: bool, depth: int) -> RegisteredSchema:
        """A schema that another one refers to, by its subject and version."""
        subject, version = str(reference.get("subject")), reference.get("version")
        path = f"/subjects/{quote(subject, safe='')}/versions/{version}?deleted=true"
        answer = self._get(path, f"schema {subject} version {version}")
        if not isinstance(id := answer.get("id"), int):
            raise Refused(self._unlike(f"a version of {subject} without its id"))
        return self.schema(id, serialized=serialized, depth=depth)

    def _get(self, path: str, what: str) -> dict[str, Any]:
        """The registry's answer about a schema; a schema that was unknown is not asked for again at once."""
        until = self._unknown.get(path)
        if until is None or time.monotonic() > until:
            try:
                answer = self._answer(path)
            except _UnknownError:
                if len(self._unknown) >= MAX_UNKNOWN:
                    self._unknown.clear()
                self._unknown[path] = time.monotonic() + UNKNOWN_S
            else:
                if not isinstance(answer, dict) or not isinstance(answer.get("schema"), str):
                    raise Refused(self._unlike("an answer without a schema"))
                return answer
        raise RejectedError(SCHEMA_UNKNOWN, f"expected {what} in the registry {self._url}, got none; register it")

    def _answer(self, path: str) -> Any:
        """The registry's answer, parsed. A request that fails for no lasting reason is sent again."""
        opener = self._opener
        for pause in (*PAUSES_S, None):
            try:
                with opener.open(Request(self._url + path, headers=self._headers), timeout=self._timeout_s) as reply:
                    content = reply.read(MAX_BYTES + 1)
            except HTTPError as error:
                reason = self._failure(error)
            except (OSError, http.client.HTTPException) as error:
                cause = error.reason if isinstance(error, URLError) else error
                if isinstance(cause, ssl.SSLCertVerificationError):
                    raise Refused(
                        f"schema registry {self._url}: expected a certificate to trust, got {cause.verify_message}; set "
                        "schema_registry.ssl_cafile"
                    ) from None
                reason = str(cause) or type(cause).__name__
                if isinstance(cause, TimeoutError):  # whoever waits for the records should know it soon
                    break
            else:
                return self._parsed(content)
            if pause is None:
                break
            time.sleep(pause)
        raise Unavailable(
            f"schema registry {self._url}: expected an answer, got {reason}; messages wait until it answers; check that it runs "
            "and schema_registry.url"
        )

    def _failure(self, error: HTTPError) -> str:
        """Why a request failed.

        Raises:
            _UnknownError: the registry has no such schema.
            Refused: sending the request again would not help.
        """
        status = f"HTTP {error.code}"
        if error.code in (408, 425, 429) or (error.code >= 500 and error.code != 501):
            return f"{status} {error.reason}"
        if error.code in (401, 403):
            raise Refused(
                f"schema registry {self._url}: expected it to accept the login, got {status}; correct the user and password or the "
                "token in [schema_registry], or grant the right to read schemas"
            ) from None
        try:
            with error:
                code = orjson.loads(error.read(MAX_BYTES)).get("error_code")
        except (ValueError, AttributeError, OSError, http.client.HTTPException):
            code = None
        if error.code == 404 and code in _NOT_FOUND:
            raise _UnknownError from None
        raise Refused(self._unlike(status)) from None

    def _parsed(self, content: bytes) -> Any:
        if len(content) > MAX_BYTES:
            raise Refused(self._unlike(f"more than {MAX_BYTES} bytes"))
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise Refused(self._unlike(f"{len(content)} bytes that are not JSON")) from None

    def _unlike(self, got: str) -> str:
        return f"schema registry {self._url}: expected a registry's answer, got {got}; correct schema_registry.url"

    @cached_property
    def _opener(self) -> OpenerDirector:
        try:
            context = ssl.create_default_context(cadata=self._certificates or None)
        except ssl.SSLError as reason:
            raise ConfigError(
                f"schema_registry.ssl_cafile: expected certificates in PEM, got {reason}; name another file"
            ) from None
        return build_opener(_NoRedirects, HTTPSHandler(context=context))


class _UnknownError(Exception):
    """The registry has no such schema."""


class _NoRedirects(HTTPRedirectHandler):
    """Makes a redirect an error."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None
