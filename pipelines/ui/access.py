"""Who may open the page: everybody on a loopback address, holders of a token, or whom a reverse proxy names."""

from __future__ import annotations

import asyncio
import hmac
import html
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tocsin.pipelines.runtime import ConfigError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "tocsin_session"
SESSION_S = 12 * 3600
"""Seconds after which a person logs in again: a shift and a half."""
SESSIONS = 1000
FORM_LIMIT = 4096
WRONG_S = 1.0
"""Wait after a wrong token; wrong ones are checked one at a time."""
SHORTEST = 16
"""Fewest characters of a token."""
LOOPBACK = ("127.0.0.1", "::1")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""The browser loads nothing from elsewhere, and no other page may show this one in a frame. Vue needs `unsafe-eval`."""
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]
LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tocsin: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh }}
form {{ display: grid; gap: .7rem; width: min(20rem, 90vw) }} input, button {{ font: inherit; padding: .6rem }}
p {{ margin: 0; min-height: 1.4em }}</style></head><body><main><form method="post" action="/login">
<h1>Tocsin</h1><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<p role="alert">{error}</p><button>Log in</button></form></main></body></html>"""


@dataclass(frozen=True)
class AccessPolicy:
    """How a person proves who they are.

    Args:
        host: the address that the page listens on.
        token: the secret that opens the page; "": none.
        user_header: the header in which a reverse proxy names the person; "": none.
        proxies: addresses from which that header is believed.
    """

    host: str = "127.0.0.1"
    token: str = field(default="", repr=False)
    user_header: str = ""
    proxies: Collection[str] = LOOPBACK

    @classmethod
    def of(cls, host: str, token_file: Path | None, user_header: str, proxies: Collection[str]) -> AccessPolicy:
        """Check the options of `tocsin ui`.

        Raises:
            ConfigError: another host than a loopback address without a way to log in, both ways at once, or a bad token.
        """
        if token_file and user_header:
            raise ConfigError("tocsin ui: expected --token-file or --user-header, got both; choose one")
        token = _token(token_file) if token_file else ""
        if not (is_loopback(host) or token or user_header):
            raise ConfigError(
                f"tocsin ui --host {host}: expected a loopback address such as 127.0.0.1, or a way to log in; add --token-file "
                "FILE, or --user-header NAME behind a reverse proxy"
            )
        return cls(host, token, user_header.lower(), tuple(proxies) or LOOPBACK)


class Access:
    """ASGI middleware for HTTP and websockets: lets a request through, or answers it.

    Without a login, only requests to a loopback name pass, because another site's page could otherwise reach this one through
    the browser (DNS rebinding). A request that another site's page makes is refused by its `Origin`, which covers the websocket.
    """

    def __init__(self, app: App, policy: AccessPolicy) -> None:
        self._app, self._policy = app, policy
        self._sessions: dict[str, float] = {}
        self._trying = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if why := self._refusal(scope, headers):
            await _refuse(scope, receive, send, 403, why)
        elif self._policy.token and scope["type"] == "http" and scope["path"] == "/login":
            await self._login(scope, receive, send)
        elif self._policy.token and not self._is_known(headers):
            await self._ask(scope, receive, send)
        else:
            scope["tocsin.user"] = headers.get(self._policy.user_header, "") if self._policy.user_header else ""
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str:
        """Why a request is refused; "" if it is not."""
        policy, host = self._policy, headers.get("host", "")
        client = (scope.get("client") or ("", 0))[0]
        if policy.user_header:
            if client not in policy.proxies:
                return f"expected a request through the reverse proxy, got one from {client}"
            if not headers.get(policy.user_header):
                return f"expected the header {policy.user_header} from the reverse proxy, got none"
            host = headers.get("x-forwarded-host", host).split(",")[0].strip()
        elif not policy.token and not is_loopback(_name(host)):
            return "expected a request to localhost, got one to another name"
        origin = headers.get("origin", "")
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            return "expected a request of this page, got one of another site"
        return ""

    def _is_known(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        expires = self._sessions.get(cookie.value) if cookie else None
        return expires is not None and time.monotonic() < expires

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _answer(send, 200, LOGIN.format(error=""))
            return
        given = parse_qs((await _body(receive)).decode("utf-8", "replace")).get("token", [""])[0]
        async with self._trying:
            if not hmac.compare_digest(given.encode(), self._policy.token.encode()):
                await asyncio.sleep(WRONG_S)
                await _answer(send, 401, LOGIN.format(error=html.escape("This token is wrong.")))
                return
        session, now = secrets.token_urlsafe(32), time.monotonic()
        living = {known: expires for known, expires in self._sessions.items() if expires > now}
        self._sessions = dict(list(living.items())[1 - SESSIONS :]) | {session: now + SESSION_S}
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={session}; Path=/; Max-Age={SESSION_S}; HttpOnly; SameSite=Strict{secure}"
        await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a person to the login; anything else gets 401."""
        is_page = scope["type"] == "http" and not scope["path"].startswith("/_nicegui")
        if is_page:
            await _answer(send, 303, "", [(b"location", b"/login")])
        else:
            await _refuse(scope, receive, send, 401, "expected a login, got none")


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a `Host` header."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except (OSError, ValueError) as reason:
        raise ConfigError(
            f"--token-file {file}: expected a file that can be read, got {type(reason).__name__}"
        ) from reason
    if len(token) < SHORTEST:
        raise ConfigError(
            f"--token-file {file}: expected {SHORTEST} characters at least, got {len(token)}; make one: `openssl rand -hex 24`"
        )
    return token


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= FORM_LIMIT:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body[:FORM_LIMIT]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await _answer(send, status, html.escape(why))


async def _answer(send: Send, status: int, text: str, headers: Collection[tuple[bytes, bytes]] = ()) -> None:
    common = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return wrapped
