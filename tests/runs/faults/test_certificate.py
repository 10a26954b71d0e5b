"""Certificates for one to four ranks, workers, accumulation, kills within an epoch and at its end, and every task."""

import json
import signal
from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.config.schema import DEFAULT_TASK
from lumen.core.registry import tasks
from lumen.runs import certify
from lumen.runs.state_hashes import StepRecorder

FURTHER_TASKS = [name for name in tasks.names() if name != DEFAULT_TASK]


@pytest.fixture
def certify_command(start_command, monkeypatch, workdir, capsys):
    """Function that certifies a command, and verifies that a run killed three times equals an undisturbed one."""

    def certify_command(command: list[str], devices: int) -> None:
        def launch(log: Path, arguments: list[str]) -> None:
            directory, moment, experiment, *flags = arguments
            run = start_command(["train", experiment, *flags], devices, [StepRecorder(Path(directory), moment)])
            # The first rank kills itself, and LUMEN's launcher would kill the others.
            codes = run.wait(first=1 if moment else None)
            assert codes == ([-signal.SIGKILL] if moment else [0] * devices), run.output()

        monkeypatch.setattr(certify, "_launch", launch)
        assert main(["certify", *command, f"devices={devices}"]) == 0
        message = capsys.readouterr().out
        parts = ("weights", "optimizer", "average", "history", "metrics", "samples", "views", "losses")
        assert all(f"equal      {part}" in message for part in parts)
        (path,) = workdir.glob("runs/certify/*/*/seed0/certificate.json")
        certificate = json.loads(path.read_text())
        assert certificate["equal"] and certificate["killed at"] == ["step:2", "validation:4", "step:5"]
        assert certificate["parts"] == dict.fromkeys(parts, True)

    return certify_command


@pytest.mark.parametrize(
    ("devices", "workers", "accumulate", "images"),
    # The number of images decides whether step 2 and its checkpoint lie in the middle of an epoch or at its end.
    [
        pytest.param(1, 0, 1, 4, marks=pytest.mark.long),
        pytest.param(1, 2, 2, 6, marks=pytest.mark.slow),
        pytest.param(2, 2, 1, 8, marks=pytest.mark.slow),
        pytest.param(2, 0, 2, 10, marks=pytest.mark.long),
        pytest.param(3, 2, 1, 12, marks=pytest.mark.long),  # more than two ranks sum gradients in another order
        pytest.param(4, 0, 2, 24, marks=pytest.mark.slow),
    ],
)
def test_certificate_of_a_killed_run(devices, workers, accumulate, images, tiny, workdir, certify_command):
    render = ["data", "render", "scenes", "world", "format=coco_stuff", "size=32", f"train={images}", "val=4"]
    assert main(render) == 0
    flags = [*tiny, "validation=4", "data.root=world", f"workers={workers}", f"accumulate={accumulate}"]
    certify_command(["coco_stuff", *flags], devices)


@pytest.mark.long
@pytest.mark.parametrize("task", FURTHER_TASKS)
def test_certificate_of_every_further_task_on_two_processes(tiny, certify_command):
    certify_command(["scenes", *tiny, "validation=4", "data.images=10", "measure.images=4", "workers=0"], 2)
