"""What stands between the network and the demo's page: who may ask, for what, how much; and what a page may load.

Plain ASGI, without Gradio, which by itself offers far more than this page needs (files, proxies, an API, monitoring).
"""

import asyncio
import ipaddress
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from busfast.demo.uploads import KEEP, ROOM, asks_for_uploads_alone, sweep, weight

UPLOAD, ASK = "/gradio_api/upload", "/gradio_api/queue/join"
PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", UPLOAD, "/gradio_api/upload_progress", ASK,
         "/gradio_api/queue/data", "/gradio_api/startup-events")
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
WRAPPING = 16_384  # bytes that a browser wraps around a file
SMALL = 65_536  # bytes of any other request
HEADERS = {
    "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), display-capture=()",
}
POLICY = ("default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; manifest-src 'self'; "
          "base-uri 'self'; form-action 'none'; frame-ancestors 'none'")
REMOTE = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')


class Guard:
    """Lets through what the page needs and refuses all else.

    Args:
        app: the ASGI application behind it.
        host: the address that it is bound to.
        folder: where uploads lie.
        most: bytes of an upload.
        script: of the page's own, JavaScript.
    """

    def __init__(self, app: Callable, host: str, folder: Path, most: int, script: str = ""):
        self.app, self.names, self.folder, self.most, self.script = app, names_of(host), folder, most, script
        self.uploading = asyncio.Lock()

    async def __call__(self, scope, receive, send) -> None:
        """Answers a request, or hands it on; see the ASGI specification."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the page needs no websocket
        nonce, page = secrets.token_urlsafe(16), scope["path"] == "/"
        send = _with_headers(send, nonce, lasting=scope["path"].startswith(("/assets/", "/static/")))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self.refuse(scope["method"], scope["path"], headers)
        if refused:
            return await _say(send, *refused)
        if scope["path"] == UPLOAD:
            return await self._upload(scope, receive, send)
        if scope["path"] == ASK:
            return await self._ask(scope, receive, send)
        if not page:
            return await self.app(scope, receive, send)
        plain = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        return await self.app({**scope, "headers": plain}, receive, _Rewritten(send, nonce, self.script))

    def refuse(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Returns why a request is refused, as an HTTP status and a sentence; None if it is not.

        Args:
            method, path: of the request.
            headers: by their names in lower case.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_known(host, self.names):  # a page elsewhere whose name was made to lead here
            return 421, "This address is not one that the demo was started for. Use the one that it printed."
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "Other pages may not use the demo."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (path != "/" or method != "GET"):
            return 403, "Other pages may not use the demo."
        if method not in ("GET", "HEAD", "POST"):
            return 405, "There is nothing to be done here in this way."
        if path not in PAGES and not path.startswith(FOLDERS):
            return 404, "There is nothing here."
        if method == "POST":
            size, most = headers.get("content-length", ""), self.most + WRAPPING if path == UPLOAD else SMALL
            if not size.isdecimal():
                return 411, "The request does not say how long it is."
            if int(size) > most:
                return 413, f"The file is larger than {self.most / 1e6:g} MB, which is the most allowed here."
        return None

    async def _ask(self, scope, receive, send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if not asks_for_uploads_alone(body, self.folder):
            return await _say(send, 400, "Only what was uploaded here can be asked about.")
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return parts.pop() if parts else await receive()

        return await self.app(scope, replay, send)

    async def _upload(self, scope, receive, send) -> None:
        async with self.uploading:
            if weight(self.folder) > ROOM * self.most:
                return await _say(send, 503, "Too many images wait to be read. Try again in a moment.")
            try:
                await self.app(scope, receive, send)
            finally:
                # The browser asks for its answer at once. What it does not ask for, or broke off, goes after a while.
                asyncio.get_running_loop().call_later(KEEP + 1, sweep, self.folder)


def names_of(host: str) -> set[str]:
    """Returns the names that a browser may call this machine by, if the demo is bound to an address."""
    names, own = {host.lower(), "localhost"}, socket.gethostname().lower()
    return names if is_loopback(host) else names | {own, f"{own}.local"}


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_known(host: str, names: set[str]) -> bool:
    """Returns whether a Host header names this machine: by its name, or by an address, which nobody can redirect."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not all(map(is_loopback, names))


class _Rewritten:
    """Collects the page and sends it without references to other sites, with a script more, each with the nonce."""

    def __init__(self, send, nonce: str, script: str):
        self.send, self.nonce, self.script, self.body = send, nonce, script, b""
        self.start: dict[str, Any] | None = None

    async def __call__(self, message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = REMOTE.sub(b"", self.body).replace(b"</head>", f"<script>{self.script}</script></head>".encode(), 1)
        body = body.replace(b"<script", f'<script nonce="{self.nonce}"'.encode())
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.send({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.send({"type": "http.response.body", "body": body})


def _with_headers(send, nonce: str, lasting: bool):
    own = HEADERS | {"Content-Security-Policy": POLICY.format(nonce=nonce),
                     "Cache-Control": "no-cache" if lasting else "no-store"}
    added = [(name.lower().encode(), value.encode()) for name, value in own.items()]
    names = {name for name, _ in added}

    async def send_on(message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names
                    and not name.lower().startswith(b"access-control-")]
            message = {**message, "headers": kept + added}
        await send(message)

    return send_on


async def _say(send, status: int, text: str) -> None:
    body = text.encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
