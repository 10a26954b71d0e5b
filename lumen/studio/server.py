"""Server of the studio's page: on this machine alone, without telemetry, with limits."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import TYPE_CHECKING

from lumen.core.errors import BadConfig, Mistake

if TYPE_CHECKING:
    import gradio as gr

MAX_WAITING = 16  # events that may wait for the networks
PRUNE_SECONDS = 60  # between two removals of files that nobody has used
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
        BadConfig: The port is taken, or the host is no address of this machine.
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
        raise BadConfig(
            f"the studio cannot be served at host={host} port={port or '7860 to 7959'}: the port is taken, or this "
            "machine has no such address; choose others, or leave both out."
        ) from error
    return address


def wait_for_end(prune: Callable[[], None]) -> None:
    """Wait until Ctrl-C, or SIGTERM as containers send it, and let what was uploaded be removed then.

    Args:
        prune: Function that removes what nobody has used, called each minute.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    end = Event()
    while not end.wait(PRUNE_SECONDS):
        prune()
