"""Trials on this machine: in turn and side by side, tried once more, left to others, told to stop."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lumen.core.locks import claim
from lumen.core.signals import Stopped
from lumen.sweeps import progress as _live
from lumen.sweeps.launchers import local


def run(table, trials, slots=1):
    local.local(slots, table=table, trials=trials)


def order(place: Path) -> list[str]:
    return [name.lstrip("+") for name in (place / "order").read_text().split()]


def test_one_after_another_and_measured_after_it_was_trained(quick, table, place):
    trials = [quick("a", "done", then="done"), quick("b", "done")]
    run(table, trials)
    assert order(place) == ["a", "a-anew", "b"] and [t.state for t in trials] == ["done", "done"]
    assert not trials[0].left()


def test_two_slots_run_two_at_a_time_and_share_the_cores(quick, table, place, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    trials = [quick("a", "meets"), quick("b", "meets"), quick("c", "done")]  # alone, a would wait for b for ever
    run(table, trials, slots=2)
    assert [t.state for t in trials] == ["done"] * 3
    share = json.loads((trials[0].home / "metrics.json").read_text())["share"]
    assert int(share) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_what_fails_is_tried_once_more_and_a_mistake_is_not(quick, table, place):
    trials = [quick("luck", "1", "done"), quick("twice", "1", "1", "done", then="done"), quick("mistake", "2", "done")]
    run(table, trials)
    assert order(place) == ["luck", "luck", "twice", "twice", "mistake"]
    assert [t.state for t in trials] == ["done", "failed", "failed"]
    assert trials[1].report() == (
        "twice failed: RuntimeError: out of luck\n  log: runs/twice/log.txt\n  to repeat: quick runs/twice 1 1 done"
    )
    assert "lumen: nothing is called so." in trials[2].report()
    assert trials[1].log.read_text().count("$ quick runs/twice 1 1 done") == 2


def test_what_the_cache_saved_is_said_of_each_run(quick, table, capsys):
    run(table, [quick("a", "1", "keeps"), quick("b", "done")])
    told = capsys.readouterr().out
    assert "[1/2" in told and "a: done; which saves about 47 s.\n" in told and told.endswith("b: done\n")


def test_a_measuring_that_fails_leaves_the_training_done(quick, table):
    trial = quick("a", "done", then="1")
    run(table, [trial])
    assert trial.state == "failed" and list(trial.left()) == [trial.home / "eval" / "a-anew"]


def test_a_run_that_is_killed_says_by_what(quick, table, place):
    trial = quick("a", "saves")
    killer = threading.Thread(target=_kill_twice, args=(trial.home,))
    killer.start()
    run(table, [trial])
    killer.join()
    assert trial.report().startswith("a failed: ended by signal 9 (Killed)")


def _kill_twice(home: Path) -> None:
    for _ in range(2):
        while not (home / "ready").exists():
            time.sleep(0.02)
        (home / "ready").unlink()
        (child,) = [int(p.name) for p in Path("/proc").glob("[0-9]*") if _runs(p, f"quick {home} ")]
        os.kill(child, signal.SIGKILL)


def _runs(process: Path, words: str) -> bool:
    """Whether it is of these words and works where the test does: others may test on this machine."""
    try:
        here = (process / "cwd").readlink() == Path.cwd()
        return here and words in (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return False


def test_what_another_launcher_is_at_is_left_to_it(quick, table, place, capsys):
    trials = [quick("a", "done"), quick("b", "done")]
    with claim(trials[0].home, ".trial"):
        run(table, trials)
    assert order(place) == ["b"] and trials[0].state == "busy" and not trials[0].failures
    assert "a: left out, another process is at it" in capsys.readouterr().out


def test_what_ended_elsewhere_meanwhile_counts_as_done(quick, table, place):
    trials = [quick("a", "done"), quick("b", "done")]
    held = claim(trials[0].home, ".trial")
    held.__enter__()

    def processes(**environment):  # of b: by its end, the other launcher has made a
        (trials[0].home / "metrics.json").write_text("{}")
        held.__exit__(None, None, None)
        yield from type(trials[1]).processes(trials[1], **environment)

    trials[1].processes = processes
    run(table, trials)
    assert order(place) == ["b"] and [t.state for t in trials] == ["done", "done"]


def test_a_command_that_somebody_typed_is_not_a_failure(quick, table, place):
    trial = quick("a", "2")  # what lumen train answers where another lumen train holds the folder
    with claim(trial.home):
        run(table, [trial])
    assert trial.state == "busy" and not trial.failures


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_reaches_every_run_and_starts_no_other(quick, table, place, number, code):
    trials = [quick(name, "saves", "done") for name in "abc"]

    def tell():
        while not all((trial.home / "ready").exists() for trial in trials[:2]):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    teller = threading.Thread(target=tell)
    teller.start()
    with pytest.raises(KeyboardInterrupt if code == 130 else Stopped):
        run(table, trials, slots=2)
    teller.join()

    assert sorted(order(place)) == ["a", "b"] and [t.state for t in trials] == ["stopped", "stopped", "waiting"]
    run(table, trials[:2])
    assert [t.state for t in trials[:2]] == ["done", "done"]


LAUNCHER = """
import sys
from pathlib import Path
from lumen.sweeps.trial import Trial
for words in sys.argv[1:]:
    for child in Trial("", {Path(words.split()[0]): f"quick {words}"}, 4, 2).processes():
        child.wait()
"""


def launcher(*trials: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, *trials])


def test_two_launchers_at_once_run_no_trial_twice(quick, place):
    trials = [f"runs/{name} done" for name in "abcdefgh"]
    launchers = [launcher(*trials), launcher(*trials)]
    assert [each.wait() for each in launchers] == [0, 0]
    assert sorted(order(place)) == list("abcdefgh")


def test_a_launcher_that_is_killed_leaves_no_run_behind(quick, table, wait_for):
    trial = quick("a", "saves", "done")
    process = launcher("runs/a saves done")
    wait_for((trial.home / "ready").exists)
    process.kill()
    process.wait()
    assert wait_for((trial.home / "saved").exists) and (trial.home / "saved").read_text() == "SIGTERM"
    wait_for(lambda: not [p for p in Path("/proc").glob("[0-9]*") if _runs(p, f"quick {trial.home} ")])
    run(table, [trial])
    assert trial.state == "done"


def test_a_run_that_was_told_to_stop_elsewhere_is_not_tried_again_and_the_others_go_on(quick, table, place, capsys):
    trials = [quick("a", "75", "done"), quick("b", "done")]
    run(table, trials)
    assert order(place) == ["a", "b"] and [t.state for t in trials] == ["stopped", "done"]
    assert "a: stopped; the same command goes on with it" in capsys.readouterr().out
    run(table, trials[:1])
    assert trials[0].state == "done"


def test_what_is_measured_anew_is_no_run_of_the_agent(quick, table, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "of-the-agent")
    trial = quick("a", "done", then="done")
    run(table, [trial])
    trained, measured = (json.loads((place / "metrics.json").read_text()) for place in trial.commands)
    assert trained["run"] == "of-the-agent" and measured["run"] is None


def test_no_run_is_left_behind_where_the_screen_is_gone(quick, table, monkeypatch):
    trial = quick("a", "saves")

    def draw(self):
        if (trial.home / "ready").exists():
            raise BrokenPipeError

    monkeypatch.setattr(local.Live, "draw", draw)
    with pytest.raises(BrokenPipeError):
        run(table, [trial])
    assert trial.state == "stopped"
    with claim(trial.home, ".trial"):  # free again
        assert not [p for p in Path("/proc").glob("[0-9]*") if _runs(p, f"quick {trial.home} ")]


def test_each_slot_has_its_gpus(table, monkeypatch):
    config = table.config(table.rows[0], 0)
    config.accelerator, config.devices = "auto", 2
    monkeypatch.setattr(local, "_gpus", lambda: ["4", "5", "6", "7", "8"])
    assert local._slots(None, config) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in local._slots(3, config)] == ["4,5", "6,7", "4,5"]


def test_a_terminal_shows_every_run_as_it_stands(quick, monkeypatch, capsys):
    trials = [quick("a", "done"), quick("b", "done")]
    live = _live.Live(trials)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    trials[0].state = "running"
    trials[0].home.mkdir(parents=True)
    lines = [{"step": 1, "train/loss": 0.5, "train/images_per_s": 0.5}, {"step": 1, "val/loss": 0.4}]
    (trials[0].home / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 2, "tr')
    live.draw()
    # two steps of two images are left, at half an image a second
    assert "a  running  step 2/4  loss 0.5000  8 s of training left\nb  waiting\n" in capsys.readouterr().out
    trials[0].state, trials[0].failures = "failed", {"c": "no luck"}
    live.draw()
    told = capsys.readouterr().out
    assert told.startswith("\x1b[3A\x1b[J") and "a  failed: no luck\n" in told and "1 of 2 ended" in told
