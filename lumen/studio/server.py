"""Server of the studio's page: on this machine alone, without telemetry, with limits."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import TYPE_CHECKING

from lumen.core.errors import BadConfig, Mistake

if TYPE_CHECKING:
    import gradio as gr

MAX_WAITING = 16  # events that may wait for the networks
MAX_UPLOAD, MAX_SESSIONS = "20mb", 100  # the layouts and edits of older sessions are forgotten
STYLE = ".pixels img { image-rendering: pixelated; } footer { display: none !important; }"
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none of other hosts


@contextmanager
def prepare_folder() -> Iterator[Path]:
    """Yield a folder for what is uploaded; it is removed at the end. Gradio keeps its copies there, and sends nothing.

    Raises:
        Mistake: Gradio is not installed.
    """
    folder = Path(mkdtemp(prefix="lumen-studio-"))
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "GRADIO_SHARE": "False",
    }
    try:
        import gradio  # noqa: F401

        yield folder
    except ImportError as error:
        if error.name != "gradio":
            raise
        raise Mistake("the studio needs gradio; run `pip install 'lumen[studio]'`.") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launch(blocks: "gr.Blocks", host: str, port: int | None) -> str:
    """Serve a page in other threads, and return its address.

    Raises:
        BadConfig: The port is taken.
    """
    import gradio as gr

    blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1)
    try:
        _, address, _ = blocks.launch(
            server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, ssr_mode=False,
            max_file_size=MAX_UPLOAD, theme=gr.themes.Default(**FONTS), css=STYLE, footer_links=[], run_history=False,
            enable_monitoring=False, mcp_server=False, state_session_capacity=MAX_SESSIONS,
        )  # fmt: skip
    except OSError as error:
        raise BadConfig(f"port={port} is taken on {host}; choose another port, or leave port= out.") from error
    return address


def wait_for_end() -> None:
    """Wait until Ctrl-C, or SIGTERM as containers send it, and let what was uploaded be removed then."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Event().wait()
