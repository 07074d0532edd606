"""What protects the demo's page: which requests are let through, and what the page may load.

ASGI middleware around Gradio, which offers far more than this page needs (files, proxies, an API, monitoring).
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

from busfast.demo.uploads import KEEP_SECONDS, MAX_WAITING, names_only_uploads, remove_old, total_size

UPLOAD, ASK = "/gradio_api/upload", "/gradio_api/queue/join"
PAGES = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", UPLOAD, "/gradio_api/upload_progress", ASK,
         "/gradio_api/queue/data", "/gradio_api/startup-events")
FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
FORM_BYTES = 16_384  # that a browser adds to a file
MAX_BODY = 65_536  # bytes of any other request
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
    """Lets through what the page needs and refuses everything else; an ASGI application around `app`.
    `host`: the address it is bound to; `folder`: of uploads of at most `most` bytes; `script`: JavaScript to add."""

    def __init__(self, app: Callable, host: str, folder: Path, most: int, script: str = ""):
        self.app, self.names, self.folder, self.most, self.script = app, host_names(host), folder, most, script
        self.uploading = asyncio.Lock()

    async def __call__(self, scope, receive, send) -> None:
        """Answers a request or passes it on; see the ASGI specification."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the page uses no websocket
        nonce, page = secrets.token_urlsafe(16), scope["path"] == "/"
        send = _with_headers(send, nonce, lasting=scope["path"].startswith(("/assets/", "/static/")))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self.refuse(scope["method"], scope["path"], headers)
        if refused:
            return await _respond(send, *refused)
        if scope["path"] == UPLOAD:
            return await self._upload(scope, receive, send)
        if scope["path"] == ASK:
            return await self._ask(scope, receive, send)
        if not page:
            return await self.app(scope, receive, send)
        headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        return await self.app({**scope, "headers": headers}, receive, _PageRewriter(send, nonce, self.script))

    def refuse(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """Returns why a request is refused, as HTTP status and message, or None; `headers` have lower-case names."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_own_host(host, self.names):  # DNS rebinding
            return 421, "The demo was not started for this address. Use the one that it printed."
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "Other pages may not use the demo."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (path != "/" or method != "GET"):
            return 403, "Other pages may not use the demo."
        if method not in ("GET", "HEAD", "POST"):
            return 405, "This method is not allowed."
        if path not in PAGES and not path.startswith(FOLDERS):
            return 404, "Not found."
        if method == "POST":
            size, most = headers.get("content-length", ""), self.most + FORM_BYTES if path == UPLOAD else MAX_BODY
            if not size.isdecimal():
                return 411, "The request has no Content-Length."
            if int(size) > most:
                return 413, f"The file is larger than {self.most / 1e6:g} MB, the largest size allowed."
        return None

    async def _ask(self, scope, receive, send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if not names_only_uploads(body, self.folder):
            return await _respond(send, 400, "Only images uploaded here can be predicted.")
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return parts.pop() if parts else await receive()

        return await self.app(scope, replay, send)

    async def _upload(self, scope, receive, send) -> None:
        async with self.uploading:
            if total_size(self.folder) > MAX_WAITING * self.most:
                return await _respond(send, 503, "Too many images are waiting. Try again in a moment.")
            try:
                await self.app(scope, receive, send)
            finally:
                # The browser asks for the answer at once; uploads that it abandoned are removed later.
                asyncio.get_running_loop().call_later(KEEP_SECONDS + 1, remove_old, self.folder)


def host_names(host: str) -> set[str]:
    """Returns the host names of this machine that a browser may use for a demo bound to `host`."""
    names, own = {host.lower(), "localhost"}, socket.gethostname().lower()
    return names if is_loopback(host) else names | {own, f"{own}.local"}


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_own_host(host: str, names: set[str]) -> bool:
    """Returns whether a Host header names this machine, by name or by an IP address, which cannot be rebound."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in names:
            return True
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not all(map(is_loopback, names))


class _PageRewriter:
    """Sends the page without references to other sites, with one more script, and the nonce in each script."""

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


async def _respond(send, status: int, text: str) -> None:
    body = text.encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
