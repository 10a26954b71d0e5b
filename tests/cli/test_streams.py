"""Output of commands: any locale, any reader, no noise."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer

from lumen.cli.streams import Output, silence_libraries
from lumen.core.errors import Note
from lumen.training.callbacks import ProgressBar

FULL = "lumen: the output could not be written: No space left on device."
LONG = pytest.mark.long


def start(words: str, **options) -> subprocess.CompletedProcess:
    """Run a command by a shell, as `lumen` stands for `python -m lumen`."""
    command = words.replace("lumen", f"{sys.executable} -m lumen", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("lumen list | head -1; exit ${PIPESTATUS[0]}", 1, ""),
        ("lumen list >&- 2>&-", 0, ""),
        ("lumen list > /dev/full", 1, FULL),
        pytest.param("lumen help | true; exit ${PIPESTATUS[0]}", 1, "", marks=LONG),
        pytest.param("lumen list >&-", 0, "", marks=LONG),
        pytest.param("lumen lst 2>&-", 2, "", marks=LONG),
        pytest.param("lumen lst 2> /dev/full", 2, "", marks=LONG),
        pytest.param("lumen list < /dev/null", 0, "", marks=LONG),
        pytest.param("lumen list <&-", 0, "", marks=LONG),
        pytest.param("lumen show scenes > /dev/full", 1, FULL, marks=LONG),
    ],
)
def test_streams_that_are_closed_end_no_command_in_a_traceback(words, code, said):
    if "/dev/full" in words and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    result = start(words)
    assert (result.returncode, result.stderr.decode().strip()) == (code, said)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp437", "utf-8"])
def test_streams_replace_what_their_encoding_lacks(encoding):
    raw = io.BytesIO()
    out = Output(raw, encoding, "replace")
    print("häßlich, ж, 猫, \N{PILE OF POO}, \udce4", file=out, flush=True)
    assert raw.getvalue().decode(encoding).endswith("?\n")


@pytest.mark.parametrize("verb", ["list", pytest.param("show scenes", marks=LONG), pytest.param("help", marks=LONG)])
def test_streams_of_a_command_replace_what_the_locale_lacks(verb):
    result = start(f"lumen {verb}", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0 and not result.stderr and b"scenes" in result.stdout


def test_streams_show_no_warnings_but_notes(capsys, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        silence_libraries()
        warnings.warn("a library's remark", UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("there are 3\x1b images.", Note, stacklevel=1)
    assert capsys.readouterr().err == "lumen: there are 3\\x1b images.\n"


def test_streams_end_the_line_of_a_progress_bar(capsys):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    bar, end = ProgressBar(), (trainer, LightningModule(), KeyboardInterrupt())
    bar.on_exception(*end)  # before there are any
    bar.train_progress_bar = bar.init_train_tqdm()
    assert not capsys.readouterr().out.endswith("\n")
    bar.on_exception(*end)
    assert capsys.readouterr().out.endswith("\n")
