"""Certificate of a task of another package, on one rank and two."""

import json
import signal
from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.runs import certify
from lumen.runs.state_hashes import StepRecorder

pytestmark = pytest.mark.long


@pytest.mark.parametrize("devices", [1, 2])
def test_plugin_task_is_certified(devices, plugin, tiny, workdir, start_command, monkeypatch, capsys):
    def launch(log: Path, arguments: list[str]) -> None:
        directory, moment, experiment, *flags = arguments
        run = start_command(["train", experiment, *flags], devices, [StepRecorder(Path(directory), moment)])
        codes = run.wait(first=1 if moment else None)
        assert codes == ([-signal.SIGKILL] if moment else [0] * devices), run.output()

    monkeypatch.setattr(certify, "_launch", launch)
    flags = [*tiny, "task=label_probe", "data.images=8", "validation=4", "workers=0", f"devices={devices}"]
    assert main(["certify", "scenes", *flags]) == 0, capsys.readouterr().out
    (path,) = workdir.glob("runs/certify/scenes/*/seed0/certificate.json")
    certificate = json.loads(path.read_text())
    assert certificate["equal"] and {"weights", "optimizer", "average", "history"} <= certificate["parts"].keys()
