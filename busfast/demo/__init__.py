"""python -m busfast demo: a page on this machine that shows a bundle's prediction for an image."""

import os
import signal
import socket
from contextlib import redirect_stderr
from pathlib import Path

from busfast.demo.guard import Guard, is_loopback
from busfast.demo.page import INSTALL, make_app
from busfast.demo.uploads import private_folder
from busfast.errors import UserError
from busfast.imports import heavy_imports, require_package
from busfast.inference.find_model import check_bundle_target, find_bundle, glance
from busfast.text import CAUTION

WARNING = ("WARNING: the demo is bound to {host}, without password or encryption: ANYBODY IN THE NETWORK CAN USE IT "
           "and read the images that are sent. Leave --host out to restrict it to this machine.")


def serve(model: str | Path, *, host: str, port: int, most: int, target: float | None = None,
          device: str = "auto") -> None:
    """Serves the page of a bundle until it is stopped. Port 0: any free one; `most`: largest size of an image, bytes.
    Raises UserError as `load_predictor`, or if Gradio is not installed, or the port is taken."""
    path = find_bundle(model)
    if glance(path).get("label_delim"):
        raise UserError(f"The demo is for images of one label; {model} has several. Use predict.")
    check_bundle_target(path, target)
    require_package("gradio", "The demo needs Gradio", INSTALL)
    with listen(host, port) as listener, private_folder(most) as folder:
        with heavy_imports():  # for nothing of what is refused above
            from busfast.demo.answer import Answerer, render
            from busfast.inference.bundle import read_bundle
            from busfast.inference.predictor import load_predictor

        bundle, port = read_bundle(model), listener.getsockname()[1]
        answerer = Answerer(bundle, load_predictor(model, target=target, device=device), most)
        app = Guard(make_app(answerer, folder, port), host, folder, most, render("page.js.j2", most=most))
        import uvicorn

        config = uvicorn.Config(app, log_level="critical", access_log=False, server_header=False,
                                timeout_graceful_shutdown=1)  # otherwise an open page would keep it alive
        if not is_loopback(host):
            print(WARNING.format(host=host))
        print(f"images are in {folder} until they are read; nothing is kept\n{CAUTION}\n"
              f"open {format_address(host, port)} in a browser; stop with Ctrl-C")
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # the terminal is closed
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        # Gradio prints errors with their data, including file names; `reply` prints what is needed.
        with open(os.devnull, "w") as devnull, redirect_stderr(devnull):
            uvicorn.Server(config).run(sockets=[listener])


def format_address(host: str, port: int) -> str:
    """Returns the address to type into a browser."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket; UserError if the port is taken, or the address is not one of this machine."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot listen at --host={host} --port={port}: {reason}. Use another port, or 0 for any free "
                        "one.") from error
