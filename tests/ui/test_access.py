"""Access: who may open the page, over HTTP and over the websocket."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from tocsin.pipelines.runtime.declare.errors import ConfigError
from tocsin.pipelines.ui import access
from tocsin.pipelines.ui.access import Access, AccessPolicy, is_loopback

TOKEN = "correct horse battery"
LOCAL, TOKENED = AccessPolicy(), AccessPolicy(token=TOKEN)
PROXIED = AccessPolicy(host="0.0.0.0", user_header="x-forwarded-user")


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "WRONG_S", 0.0)


class Caller:
    """Sends requests to the middleware around an app that answers with the person's name."""

    def __init__(self, policy: AccessPolicy) -> None:
        self._access = Access(self._app, policy)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["tocsin.user"].encode()})

    def __call__(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        body: bytes = b"",
        kind: str = "http",
        client: str = "127.0.0.1",
        **headers: str,
    ) -> tuple[int | str, str, dict[str, str]]:
        """Status (or the websocket's answer), body and headers."""
        sent: list[Any] = []
        given = {"host": "localhost:8082", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": kind, "path": path, "method": method, "scheme": "http", "client": (client, 1),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self._access(scope, receive, send))
        if kind == "websocket":
            return sent[0]["type"], "", {}
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], sent[1]["body"].decode(), found

    def log_in(self, token: str) -> tuple[int | str, str, dict[str, str]]:
        return self("/login", method="POST", body=f"token={token.replace(' ', '+')}".encode())


@pytest.mark.parametrize("host", ["localhost:8082", "127.0.0.1:8082", "[::1]:8082"])
def test_without_a_login_this_machine_passes(host: str) -> None:
    status, _, headers = Caller(LOCAL)(host=host)
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers", [{"host": "evil.example:8082"}, {"origin": "http://evil.example"}, {"origin": "null"}]
)
def test_another_site_gets_nothing_through_the_browser(kind: str, headers: dict[str, str]) -> None:
    assert Caller(LOCAL)("/_nicegui_ws/", kind=kind, **headers)[0] in (403, "websocket.close")


def test_the_pages_own_websocket_passes() -> None:
    caller = Caller(LOCAL)
    assert caller("/_nicegui_ws/", kind="websocket", origin="http://localhost:8082")[0] == "websocket.accept"


def test_a_token_opens_a_session_that_is_no_token() -> None:
    caller = Caller(TOKENED)
    status, _, headers = caller()
    assert (status, headers["location"]) == (303, "/login")
    assert caller("/_nicegui_ws/", kind="websocket")[0] == "websocket.close"
    assert caller("/_nicegui/3/static/x.js")[0] == 401
    status, body, headers = caller.log_in(TOKEN)
    assert (status, body, headers["location"]) == (303, "", "/")
    assert re.fullmatch(
        rf"{access.COOKIE}=[\w-]{{40,}}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict", headers["set-cookie"]
    )
    cookie = headers["set-cookie"].split(";")[0]
    assert TOKEN not in str(headers)
    assert caller(cookie=cookie)[0] == 200
    assert caller("/_nicegui_ws/", kind="websocket", cookie=cookie)[0] == "websocket.accept"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], "ü"])
def test_a_wrong_token_opens_nothing(token: str) -> None:
    caller = Caller(TOKENED)
    status, body, headers = caller.log_in(token)
    assert (status, "set-cookie" in headers) == (401, False)
    assert "This token is wrong." in body
    assert caller(cookie=f"{access.COOKIE}={TOKEN}")[0] == 303


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SESSION_S", -1)
    caller = Caller(TOKENED)
    cookie = caller.log_in(TOKEN)[2]["set-cookie"].split(";")[0]
    assert caller(cookie=cookie)[0] == 303


def test_a_proxy_names_the_person() -> None:
    caller = Caller(PROXIED)
    assert caller(host="plant.example", x_forwarded_user="zoe")[:2] == (200, "zoe")
    assert caller(host="plant.example")[0] == 403
    assert caller(client="10.0.0.9", x_forwarded_user="zoe")[0] == 403
    forwarded = {"x_forwarded_user": "zoe", "x_forwarded_host": "plant.example", "host": "127.0.0.1:8082"}
    assert caller("/ws", kind="websocket", origin="https://plant.example", **forwarded)[0] == "websocket.accept"
    assert caller("/ws", kind="websocket", origin="https://evil.example", **forwarded)[0] == "websocket.close"


def test_without_the_option_the_header_names_nobody() -> None:
    assert Caller(LOCAL)(x_forwarded_user="zoe")[1] == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.5", "::", "plant.example"])
def test_another_host_needs_a_login(host: str) -> None:
    with pytest.raises(
        ConfigError, match=f"tocsin ui --host {re.escape(host)}: expected a loopback address"
    ) as refused:
        AccessPolicy.of(host, None, "", ())
    assert "\n" not in str(refused.value)
    assert AccessPolicy.of(host, None, "X-Forwarded-User", ()).user_header == "x-forwarded-user"


def test_a_token_file_is_checked_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(ConfigError, match="expected a file that can be read, got FileNotFoundError"):
        AccessPolicy.of("127.0.0.1", file, "", ())
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="expected 16 characters at least, got 5"):
        AccessPolicy.of("127.0.0.1", file, "", ())
    file.write_text(f"{TOKEN}\n")
    policy = AccessPolicy.of("0.0.0.0", file, "", ())
    assert policy.token == TOKEN and TOKEN not in repr(policy)
    with pytest.raises(ConfigError, match="got both; choose one"):
        AccessPolicy.of("0.0.0.0", file, "X-Forwarded-User", ())


def test_loopback_names() -> None:
    assert [is_loopback(h) for h in ("localhost", "127.0.0.9", "::1", "localhost.evil.example", "")] == [True] * 3 + [
        False
    ] * 2
