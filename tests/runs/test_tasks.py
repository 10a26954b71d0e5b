"""Promise of every task beside the default one: a run that is stopped and resumed ends with the same bits."""

import signal

import pytest

from lumen.__main__ import main
from lumen.config.schema import DEFAULT_TASK
from lumen.core.registry import tasks
from lumen.core.signals import SIGNAL_EXIT_CODE
from lumen.runs.state_hashes import hash_run_state

# The default task has certificates of its own, which cost more; see faults/test_certificate.py.
FURTHER_TASKS = [name for name in tasks.names() if name != DEFAULT_TASK]
SHORT = ["data.images=6", "validation=2", "measure.images=2", "measure.samples=1", "measure.anchors=[]", "workers=0"]
SHORT += ["sampling.steps=1", "sampling.images=1", "steps=4", "every.log=1", "every.validate=4", "every.checkpoint=4"]
SHORT += ["wandb=disabled"]


@pytest.mark.parametrize("task", FURTHER_TASKS)
def test_stopped_run_of_every_further_task_resumes(task, tiny, workdir, monkeypatch):
    command = ["train", "scenes", *tiny, *SHORT]
    assert main([*command, "runs=whole"]) == 0
    kind = tasks.factory(task)
    step = kind.training_step

    def stopped_step(self, batch, batch_idx):
        if self.global_step == 2:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "training_step", stopped_step)
        assert main([*command, "runs=stopped"]) == SIGNAL_EXIT_CODE
    assert main([*command, "runs=stopped"]) == 0
    whole, stopped = (next(workdir.glob(f"{runs}/scenes/*/seed0")) for runs in ("whole", "stopped"))
    assert hash_run_state(whole) == hash_run_state(stopped)
