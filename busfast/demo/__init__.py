"""python -m busfast demo: a page on this machine that answers an image with what a bundle's model says of it."""

import importlib.util
import os
import signal
import socket
from contextlib import redirect_stderr
from pathlib import Path

from busfast.demo.answer import Answerer, render
from busfast.demo.guard import Guard, is_loopback
from busfast.demo.page import INSTALL, make_app
from busfast.demo.uploads import private_folder
from busfast.errors import UserError
from busfast.inference.bundle import read_bundle
from busfast.inference.predictor import load_predictor

WARNING = ("WARNING: the demo is bound to {host}, not to this machine alone. There is no password and no encryption: "
           "ANYBODY IN THE NETWORK CAN USE IT, and can read along which images are sent. Leave --host out to keep it "
           "to this machine.")


def serve(model: str | Path, *, host: str, port: int, most: int, target: float | None = None,
          device: str = "auto") -> None:
    """Serves the page until it is ended.

    Args:
        model: a bundle's folder.
        host, port: where to listen; port 0: any that is free.
        most: bytes that an image may have.
        target, device: as those of `load_predictor`.

    Raises:
        UserError: no bundle; Gradio is not installed; the port is taken.
    """
    bundle = read_bundle(model)
    if importlib.util.find_spec("gradio") is None:  # said before anything that takes time
        raise UserError(f"The demo needs Gradio: {INSTALL}")
    with listen(host, port) as ear, private_folder(most) as folder:
        port = ear.getsockname()[1]
        answerer = Answerer(bundle, load_predictor(model, target=target, device=device), most)
        app = Guard(make_app(answerer, folder, port), host, folder, most, render("page.js.j2", most=most))
        import uvicorn

        config = uvicorn.Config(app, log_level="critical", access_log=False, server_header=False,
                                timeout_graceful_shutdown=1)  # an open page would hold it up for ever
        if not is_loopback(host):
            print(WARNING.format(host=host), flush=True)
        print(f"an image lies in {folder} until it is read; nothing is kept\nResearch only, not a medical device.\n"
              f"open {format_address(host, port)} in a browser; Ctrl-C ends it", flush=True)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # its window is closed
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        # Gradio prints errors with all that belongs to them, names of files, too; `reply` says what needs to be said.
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            uvicorn.Server(config).run(sockets=[ear])


def format_address(host: str, port: int) -> str:
    """Returns the address to be typed into a browser."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens, made before anything that takes time.

    Raises:
        UserError: that cannot be.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot listen at --host={host} --port={port}: {why}. Name another port, or 0 for any that is "
                        "free.") from error
