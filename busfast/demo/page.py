"""The demo's page in Gradio, without its telemetry, sharing, history and API."""

import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from busfast.demo.uploads import take_upload
from busfast.errors import UserError
from busfast.imports import require_package
from busfast.text import CAUTION

if TYPE_CHECKING:  # torch is not imported before Gradio is known to be installed
    from busfast.demo.answer import Answerer

INSTALL = "pip install 'gradio>=6.31'"
MAX_QUEUE = 20  # images that may wait for their turn
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SHARE": "False",
         "GRADIO_MCP_SERVER": "False", "GRADIO_SSR_MODE": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
FONTS = ("system-ui", "sans-serif")  # those of the theme would be downloaded


def make_app(answerer: "Answerer", folder: Path, port: int) -> Callable:
    """Makes the page's ASGI application; Gradio writes uploads to the private `folder`. UserError without Gradio."""
    gradio = import_gradio(folder)
    from fastapi import FastAPI

    style = (files("busfast.demo") / "templates" / "page.css").read_text(encoding="utf-8")
    with gradio.Blocks(title="busfast demo", analytics_enabled=False, fill_width=True) as blocks:
        gradio.Markdown(f'<p id="caution" role="note"><strong>{CAUTION}</strong> Nothing here is a diagnosis.</p>',
                        elem_id="caution-bar")
        gradio.Markdown(answerer.describe(), elem_id="head")
        drop = gradio.File(label=f"JPEG, PNG, BMP, TIFF or DICOM, at most {answerer.most / 1e6:g} MB",
                           elem_id="drop", height=170)
        answer = gradio.Markdown("", elem_id="answer")
        # The list of files is emptied at once, ready for the next image: the upload is deleted already.
        drop.upload(lambda upload: (reply(answerer, folder, upload), None), drop, [answer, drop], preprocess=False,
                    concurrency_limit=1, api_visibility="private", show_progress_on=answer)
    blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=1)
    theme = gradio.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONTS,
                               font_mono=("ui-monospace", "monospace"))
    blocks.has_launched = True  # otherwise a mounted page reads any file that a request names; see `Guard`
    return gradio.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None), blocks, path="/", server_name="127.0.0.1",
        server_port=port, footer_links=[], run_history=False, show_error=False, max_file_size=answerer.most,
        ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme, css=style)


def reply(answerer: "Answerer", folder: Path, upload: dict[str, Any] | None) -> str | None:
    """Returns the page's answer to an upload, which is deleted before it is decoded."""
    if not upload:
        return None
    name = str(upload.get("orig_name") or "")
    try:
        return answerer.answer(name, take_upload(upload, folder))
    except UserError as error:
        return answerer.refuse(name, str(error))
    except Exception as error:  # details do not belong on the page, and the next image may be fine
        print(f"an image could not be answered: {type(error).__name__}")
        return answerer.refuse(name, "could not be answered: something went wrong. Try another image.")


def import_gradio(folder: Path) -> ModuleType:
    """Imports Gradio, which reads its settings from the environment at that moment; UserError if it is absent."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # such as GRADIO_SHARE
    os.environ.update(QUIET, GRADIO_TEMP_DIR=str(folder))
    require_package("gradio", "The demo needs Gradio", INSTALL)
    import gradio

    return gradio
