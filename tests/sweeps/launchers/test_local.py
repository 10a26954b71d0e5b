"""Launcher on this machine: order, slots, retries, locks and signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lumen.core.locks import lock_directory
from lumen.core.signals import SignalInterrupt
from lumen.sweeps.launchers import local
from lumen.sweeps.progress import ProgressTable


def run(table, trials, slots=1):
    local.local(slots, table=table, trials=trials)


def order(workdir: Path) -> list[str]:
    """Names of the commands in the order of their start."""
    return [name.lstrip("+") for name in (workdir / "order").read_text().split()]


def running(words: str) -> list[int]:
    """Processes of a command line that run in this test's directory."""
    numbers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
            if (process / "cwd").readlink() == Path.cwd() and words in command:
                numbers.append(int(process.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return numbers


def test_trials_run_one_after_another_and_are_evaluated_after_training(quick, table, workdir):
    trials = [quick("a", "finish", evaluation="finish"), quick("b", "finish")]
    run(table, trials)
    assert order(workdir) == ["a", "a-eval", "b"] and [t.state for t in trials] == ["done", "done"]
    assert not trials[0].pending_commands()


def test_slots_run_side_by_side_and_share_the_cores(quick, table, workdir, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    # alone, a would wait for b without end
    trials = [quick("a", "wait_for_another"), quick("b", "wait_for_another"), quick("c", "finish")]
    run(table, trials, slots=2)
    assert [t.state for t in trials] == ["done"] * 3
    share = json.loads((trials[0].run_dir / "metrics.json").read_text())["share"]
    assert int(share) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_trial_that_fails_is_repeated_once_and_a_mistake_is_not(quick, table, workdir):
    trials = [
        quick("once", "1", "finish"),
        quick("twice", "1", "1", "finish", evaluation="finish"),
        quick("mistake", "2", "finish"),
    ]
    run(table, trials)
    assert order(workdir) == ["once", "once", "twice", "twice", "mistake"]
    assert [t.state for t in trials] == ["done", "failed", "failed"]
    report = trials[1].failure_report()
    assert "twice failed: RuntimeError: out of luck" in report and "runs/twice/log.txt" in report
    assert report.endswith("to repeat: quick runs/twice 1 1 finish")
    assert "lumen: no such name." in trials[2].failure_report()
    assert trials[1].log(trials[1].run_dir).read_text().count("$ quick runs/twice 1 1 finish") == 2


def test_metrics_of_each_finished_trial_are_printed(quick, table, capsys):
    run(table, [quick("a", "finish")])
    assert capsys.readouterr().out.endswith("a: done  val/loss 1\n")


def test_evaluation_that_fails_leaves_the_training_done(quick, table):
    trial = quick("a", "finish", evaluation="1")
    run(table, [trial])
    assert trial.state == "failed" and list(trial.pending_commands()) == [trial.run_dir / "eval" / "a-eval"]


def test_trial_that_is_killed_names_the_signal(quick, table, workdir):
    trial = quick("a", "save_on_signal")
    killer = threading.Thread(target=kill_twice, args=(trial.run_dir,))
    killer.start()
    run(table, [trial])
    killer.join()
    assert trial.failure_report().startswith("a failed: ended by signal 9 (Killed)")


def kill_twice(run_dir: Path) -> None:
    """Kill the first attempt of a trial, and the second one."""
    for _ in range(2):
        while not (run_dir / "ready").exists():
            time.sleep(0.02)
        (run_dir / "ready").unlink()
        (process,) = running(f"quick {run_dir} ")
        os.kill(process, signal.SIGKILL)


def test_trial_that_another_launcher_runs_is_skipped(quick, table, workdir, capsys):
    trials = [quick("a", "finish"), quick("b", "finish")]
    with lock_directory(trials[0].run_dir, ".trial"):
        run(table, trials)
    assert order(workdir) == ["b"] and trials[0].state == "busy" and not trials[0].failures
    assert "a: skipped" in capsys.readouterr().out


def test_trial_that_another_launcher_finished_counts_as_done(quick, table, workdir):
    trials = [quick("a", "finish"), quick("b", "finish")]
    lock = lock_directory(trials[0].run_dir, ".trial")
    lock.__enter__()

    def run_b(**environment):  # before b ends, the other launcher finishes a
        (trials[0].run_dir / "metrics.json").write_text('{"val/loss": 1.0}')
        lock.__exit__(None, None, None)
        yield from type(trials[1]).run(trials[1], **environment)

    trials[1].run = run_b
    run(table, trials)
    assert order(workdir) == ["b"] and [t.state for t in trials] == ["done", "done"]


def test_trial_whose_command_a_user_has_started_is_no_failure(quick, table, workdir):
    trial = quick("a", "2")  # exit code of lumen train if another lumen train has locked the directory
    with lock_directory(trial.run_dir):
        run(table, [trial])
    assert trial.state == "busy" and not trial.failures


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_signal_reaches_every_run_and_no_other_is_started(quick, table, workdir, number, code):
    trials = [quick(name, "save_on_signal", "finish") for name in "abc"]

    def send():
        while not all((trial.run_dir / "ready").exists() for trial in trials[:2]):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt if code == 130 else SignalInterrupt):
        run(table, trials, slots=2)
    sender.join()

    assert sorted(order(workdir)) == ["a", "b"] and [t.state for t in trials] == ["stopped", "stopped", "waiting"]
    run(table, trials[:2])
    assert [t.state for t in trials[:2]] == ["done", "done"]


LAUNCHER = """
import sys
from pathlib import Path
from lumen.sweeps.trial import Trial
for words in sys.argv[1:]:
    run_dir = Path(words.split()[0])
    for process in Trial("", {run_dir: f"quick {words}"}, {run_dir: (4, 2)}).run():
        process.wait()
"""


def launcher(*trials: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, *trials])


def test_trials_run_once_under_two_launchers(quick, workdir):
    trials = [f"runs/{name} finish" for name in "abcdefgh"]
    launchers = [launcher(*trials), launcher(*trials)]
    assert [process.wait() for process in launchers] == [0, 0]
    assert sorted(order(workdir)) == list("abcdefgh")


def test_launcher_that_is_killed_leaves_no_process(quick, table, wait_for):
    trial = quick("a", "save_on_signal", "finish")
    process = launcher("runs/a save_on_signal finish")
    wait_for((trial.run_dir / "ready").exists)
    process.kill()
    process.wait()
    assert wait_for((trial.run_dir / "saved").exists) and (trial.run_dir / "saved").read_text() == "SIGTERM"
    wait_for(lambda: not running(f"quick {trial.run_dir} "))
    run(table, [trial])
    assert trial.state == "done"


def test_trial_that_was_stopped_elsewhere_is_not_repeated_and_the_others_run(quick, table, workdir, capsys):
    trials = [quick("a", "75", "finish"), quick("b", "finish")]
    run(table, trials)
    assert order(workdir) == ["a", "b"] and [t.state for t in trials] == ["stopped", "done"]
    assert "a: stopped" in capsys.readouterr().out
    run(table, trials[:1])
    assert trials[0].state == "done"


def test_wandb_agent_names_the_training_but_not_its_evaluation(quick, table, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    trial = quick("a", "finish", evaluation="finish")
    run(table, [trial])
    trained, evaluated = (json.loads((path / "metrics.json").read_text()) for path in trial.commands)
    assert trained["run"] == "of-the-agent" and evaluated["run"] is None


def test_launcher_whose_output_is_closed_leaves_no_process(quick, table, monkeypatch):
    trial = quick("a", "save_on_signal")

    def refresh(self):
        if (trial.run_dir / "ready").exists():
            raise BrokenPipeError

    monkeypatch.setattr(local.ProgressTable, "refresh", refresh)
    with pytest.raises(BrokenPipeError):
        run(table, [trial])
    assert trial.state == "stopped"
    with lock_directory(trial.run_dir, ".trial"):  # which is free again
        assert not running(f"quick {trial.run_dir} ")


def test_slots_have_gpus_of_their_own(table, monkeypatch):
    config = table.config(table.rows[0], 0)
    config.accelerator, config.devices = "auto", 2
    monkeypatch.setattr(local, "_visible_gpus", lambda: ["4", "5", "6", "7", "8"])
    environments = local._slot_environments(None, config)
    assert environments == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in local._slot_environments(3, config)] == ["4,5", "6,7", "4,5"]


def test_progress_table_in_a_terminal_shows_every_run(quick, monkeypatch, capsys):
    trials = [quick("a", "finish"), quick("b", "finish")]
    progress = ProgressTable(trials)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    trials[0].state = "running"
    trials[0].run_dir.mkdir(parents=True)
    lines = [{"step": 1, "train/loss": 0.5, "train/images_per_s": 0.5}, {"step": 1, "val/loss": 0.4}]
    (trials[0].run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "tr')
    progress.refresh()
    # two steps of two images are left, at half an image a second
    assert "a  running  step 2/4  loss 0.5000  8 s of training left\nb  waiting\n" in capsys.readouterr().out
    trials[0].state, trials[0].failures = "failed", {"c": "no luck"}
    progress.refresh()
    output = capsys.readouterr().out
    assert output.startswith("\x1b[3A\x1b[J") and "a  failed: no luck\n" in output and "1 of 2 ended" in output
