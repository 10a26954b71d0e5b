"""Output of commands: any locale, any reader, no noise."""

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.cli.command import COMMANDS, Command
from lumen.cli.streams import VERBOSITIES, Output, silence_libraries
from lumen.core.console import LOG_NAME, console
from lumen.core.errors import Mistake, Note

FULL = "lumen: the output could not be written: No space left on device."
LONG = pytest.mark.long


def start(words: str, **options) -> subprocess.CompletedProcess:
    """Run a command by a shell, as `lumen` stands for `python -m lumen`."""
    command = words.replace("lumen", f"{sys.executable} -m lumen", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("lumen list | true; exit ${PIPESTATUS[0]}", 1, ""),
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


@pytest.fixture
def probe(monkeypatch):
    """Command that reports the verbosity it runs under, or does what a test asks."""

    def register(act):
        monkeypatch.setitem(COMMANDS, "probe", Command("probe", "", lambda positionals, options: act() or 0))

    return register


@pytest.mark.parametrize(
    ("words", "quiet", "verbose"),
    [([], False, False), (["-q"], True, False), (["--quiet"], True, False), (["-v"], False, True)],
    ids=str,
)
def test_streams_are_as_loud_as_a_flag_asks(words, quiet, verbose, probe, monkeypatch):
    found = []
    for name in VERBOSITIES:
        monkeypatch.setenv(name, "error")
    monkeypatch.setattr(logging, "basicConfig", lambda **options: found.append("logging"))
    probe(lambda: found.append((console.is_quiet, console.is_verbose)))
    for arguments in (["probe", *words], [*words, "probe"]):
        assert main(arguments) == 0
    assert found == [*["logging"] * verbose, (quiet, verbose)] * 2
    assert not console.is_quiet and not console.is_verbose and console.command is None


@pytest.mark.parametrize("words", [[], ["-v"]], ids=str)
def test_streams_show_the_traceback_of_a_mistake_to_who_asks(words, probe, monkeypatch, capsys):
    def fail():
        raise Mistake("the file is damaged.")

    for name in VERBOSITIES:
        monkeypatch.setenv(name, "error")
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    probe(fail)
    assert main(["probe", *words]) == 2
    *traceback, sentence = capsys.readouterr().err.splitlines()
    assert sentence == "lumen: the file is damaged." and ("Traceback" in str(traceback)) == bool(words)


@pytest.mark.parametrize("error", [Mistake("the file is damaged."), RuntimeError("a fault"), KeyboardInterrupt()])
def test_streams_write_to_the_log_what_ends_a_command(error, probe, tmp_path, capsys):
    def fail():
        console.open_log(tmp_path)
        print("starts")
        raise error

    probe(fail)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            main(["probe"])
    else:
        main(["probe"])
    header, first, *_, last = (tmp_path / LOG_NAME).read_text().splitlines()
    assert header.startswith("$ lumen probe  # ") and first == "starts"
    assert last in ("RuntimeError: a fault", *capsys.readouterr().err.splitlines())
