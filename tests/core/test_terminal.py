"""Ends of a run in a terminal: whatever stops it, the last line is one sentence about what was saved."""

import re
import subprocess
import sys
import time
from signal import SIGINT, SIGTERM

import pytest

pytestmark = pytest.mark.long
RUN = ["size=32", "backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none", "workers=0"]
RUN += ["diffusion.weights=none", "diffusion.size=tiny", "batch=2", "conditioning.vectors=60", "data.images=6"]
RUN += ["validation=2", "sampling.steps=1", "sampling.images=1", "metrics=[]", "accelerator=cpu", "wandb=disabled"]
RUN += ["steps=100000", "every.log=1", "every.validate=100000"]


@pytest.mark.parametrize("terminal", [120], indirect=True)
@pytest.mark.parametrize(
    ("number", "every", "code", "sentence"),
    [
        (SIGINT, 2, 130, r"lumen: interrupted; repeat the command to resume from the last checkpoint\."),
        (SIGTERM, 90_000, 75, r"lumen: stopped by SIGTERM at step \d+, which is saved; the same command .*\."),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_terminal_ends_with_a_sentence_on_a_line_of_its_own(number, every, code, sentence, terminal, workdir, forking):
    command = [sys.executable, "-m", "lumen", "train", "scenes", *RUN, f"every.checkpoint={every}"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    process = subprocess.Popen(command, start_new_session=True, **streams)
    end = time.monotonic() + 120
    while not (re.search(r"training [3-9]/", terminal.output) and (every > 2 or [*workdir.rglob("step*.ckpt")])):
        assert process.poll() is None and time.monotonic() < end, terminal.output
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == code, terminal.output
    *lines, last = terminal.lines()
    assert re.fullmatch(sentence, last) and not [line for line in lines if line.startswith("training")]
    assert "\x1b[?25l" not in terminal.output
