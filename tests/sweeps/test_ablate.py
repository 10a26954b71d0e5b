"""Tables and sweeps: every shipped row differs from its base in one override, and runs once."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import Popen

import pytest

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.files import write_json
from lumen.sweeps import trial
from lumen.sweeps.specs import table_names
from lumen.sweeps.table_reader import read_table

# A Stable Diffusion of two blocks, which takes a third of the time that four blocks take.
PIPELINE = next(Path(__file__).parents[1].glob("runs/fixtures/*/pipeline"))
TINY = [
    "size=32",
    f"diffusion.weights={PIPELINE}",
    "batch=2",
    "data.images=6",
    "conditioning.vectors=60",
    "validation=2",
    "steps=1",
    "wandb=disabled",
    "metrics=[miou]",
    "measure.images=2",
]
TINY += ["sampling.steps=1", "sampling.images=1"]
ROOTS = [f"{name}.data.root=/nowhere" for name in ("ade20k", "cityscapes", "bdd100k")]


CHAINS = ["table3", "table4"]  # tables whose rows learn from generated images
PLAIN = [name for name in table_names() if name not in CHAINS]
OFFLINE = ["edits", "rearrange", "pairs", "directions"]  # tables whose base is scenes


@pytest.mark.parametrize("name", PLAIN)
def test_table_row_is_its_base_and_one_override(name):
    table = read_table(name, base="scenes", overrides=ROOTS if name == "transfer" else ())
    # Rows of another task differ from one another in one override, and from the base in what the task brings too.
    base = dump(table.config(table.rows[0], 0) if "task=" in table.rows[0].flag else load("scenes"))
    for row in table.rows:
        config = dump(table.config(row, 0))
        slot = row.flag.partition("=")[0].partition(".")[0]
        own = {"steps"} if "steps=0" in row.flag else set()  # of a row that learns nothing
        assert {key for key in base if base[key] != config[key]} <= {slot, "flags", *own}
    assert table.title and len({(row.flag, row.eval) for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize("name", PLAIN)
def test_table_runs_on_its_own_base(name):
    roots = [*(ROOTS if name == "transfer" else ()), *([] if name in OFFLINE else ["data.root=/nowhere"])]
    assert read_table(name, overrides=roots).base == ("scenes" if name in OFFLINE else "coco_stuff")
    for root in roots:
        with pytest.raises(BadConfig, match="needs data.root="):
            read_table(name, overrides=[other for other in roots if other != root])


def test_table_row_has_overrides_of_its_own_and_others_can_be_left_out(workdir):
    table = read_table("transfer", base="scenes", overrides=ROOTS, only=["ade20k"])
    ((train, evaluate),) = [table.commands(row, 0).values() for row in table.rows]
    assert train == "lumen train scenes seed=0"
    assert "scenes/default/seed0 data=ade20k" in evaluate and evaluate.endswith(" data.root=/nowhere")
    with pytest.raises(UnknownName, match="transfer has no row 'ade'; did you mean 'ade20k'"):
        read_table("transfer", base="scenes", overrides=ROOTS, only=["ade"])


@pytest.mark.long
def test_trial_of_several_rows_is_trained_once_and_evaluated_for_each(workdir, monkeypatch, capsys):
    commands = []

    def start(command, log, environment):
        commands.append(command.split()[1])
        return ended_process(main(shlex.split(command)[1:]))

    monkeypatch.setattr(trial, "start", start)
    overrides = [override for override in TINY if not override.startswith("metrics")]
    assert main(["ablate", "edits", "rows=as it is,sky", *overrides, "metrics=[miou,tifa]"]) == 0
    output = capsys.readouterr().out
    assert commands == ["train", "eval"]
    assert "| as it is | 1/1 |" in output and "| sky | 1/1 |" in output and "*caption alone, sky*" in output
    # no edited word is true of the real images
    (real,) = [line.split("|") for line in output.splitlines() if line.startswith("| *real images, sky*")]
    head = next(line.split("|") for line in output.splitlines() if line.startswith("| row"))
    assert float(real[head.index(" TIFA ")].split()[0]) == 0


def test_table_has_the_published_values():
    published = {row.name: row.published["coco_stuff"] for row in read_table("table1", base="scenes").rows}
    assert published["SD"] == {"miou": 51.4, "si_depth": 21.5, "fid": 12.2, "lpips": 0.42, "tifa": 0.79}
    assert [published[row]["miou"] for row in ("CLIP", "DINO", "DINOv2")] == [41.7, 49.5, 51.1]
    table = {row.name: row.published for row in read_table("table2", base="scenes").rows}
    names, paper = ["Canny", "HED", "MiDaS", "SemSeg", "Neural layout"], {}
    paper["coco_stuff"] = [44.4, 49.3, 45.3, 43.3, 52.9], [13.2, 12.1, 14.3, 15.3, 11.8]
    paper["ade20k"] = [35.1, 41.8, 34.0, 35.1, 45.7], [19.1, 17.4, 21.2, 22.6, 16.1]
    for data, (miou, fid) in paper.items():
        assert [table[name][data]["miou"] for name in names] == miou
        assert [table[name][data]["fid"] for name in names] == fid
    assert table.keys() - names == {"Blank"} and not table["Blank"]


def test_sweep_runs_rows_once_and_names_failures(workdir, monkeypatch, capsys):
    commands = []

    def start(command, log, environment):
        commands.append(command)
        return ended_process(1 if "backbone=clip" in command else main(shlex.split(command)[1:]))

    monkeypatch.setattr(trial, "start", start)
    command = ["ablate", "table1", "base=scenes", "rows=CLIP,DINO", "seeds=2", *TINY]
    assert main(command) == 1
    output = capsys.readouterr()
    assert len(commands) == 6 and output.err.count("CLIP seed0 failed: exit code 1") == 1
    assert output.err.count("to repeat: lumen train scenes backbone=clip") == 2
    assert "another image's layout" in output.out and "| mIoU |" in output.out
    assert "| DINO | 2/2 |" in output.out and "| CLIP | 0/2 |" in output.out and "49.5" in output.out
    assert "2 commands are left; `lumen ablate table1 base=scenes seeds=2 rows=CLIP,DINO" in output.out
    commands.clear()
    assert main(command) == 1
    assert len(commands) == 4 and "4 runs, 2 of them finished before" in capsys.readouterr().out


def ended_process(code: int) -> Popen:
    """Return a process that has ended with this exit code."""
    process = Popen.__new__(Popen)
    process.returncode = code
    return process


@pytest.mark.parametrize(
    ("codes", "code"),
    [({"clip": 75}, 75), ({"clip": 75, "dino": 1}, 1), ({"clip": 130, "dino": 75}, 75), ({"sd": 2}, 1)],
)
def test_exit_code_of_a_sweep_says_whether_to_repeat_it(codes, code, workdir, monkeypatch, capsys):
    def start(command, log, environment):
        name = re.search(r"backbone=(\w+)", command)[1]
        if name not in codes:
            write_json(log.with_name("metrics.json"), {"val/loss": 1.0})
        return ended_process(codes.get(name, 0))

    monkeypatch.setattr(trial, "start", start)
    monkeypatch.setattr("lumen.cli.tables._print_table", lambda rows: None)
    monkeypatch.setattr("lumen.sweeps.wandb_summary.log_sweep", lambda results: None)
    assert main(["ablate", "table1", "base=scenes", "accelerator=cpu"]) == code
    output = capsys.readouterr()
    assert output.out.count(": stopped; ") == sum(c in (75, 130) for c in codes.values())
    assert output.err.count("to repeat: lumen train") == sum(c in (1, 2) for c in codes.values())


def test_sweep_runs_two_rows_side_by_side(workdir, capsys, forking):
    small = [override for override in TINY if not override.startswith("metrics")]
    assert main(["ablate", "table1", "base=scenes", "rows=CLIP,DINO", "slots=2", *small, "metrics=[]"]) == 0
    output = capsys.readouterr()
    assert "| CLIP | 1/1 |" in output.out and "| DINO | 1/1 |" in output.out and "[2/2] " in output.out
    assert not output.err
    logs = [path.read_text() for path in workdir.glob("runs/scenes/*/seed0/log.txt")]
    assert len(logs) == 2 and all(log.startswith("$ lumen train scenes") and "metrics:" in log for log in logs)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["launcher=slrum"], "no launcher is called 'slrum'; did you mean 'slurm'?"),
        (
            ["launcher=slurm", "slurm.partion=gpu"],
            "launcher 'slurm' has no argument 'partion'; did you mean 'partition'",
        ),
        (["slots=two"], "local.slots must be a whole number or null, not 'two'."),
        (["slots=0"], "local.slots must be between 1 and 10,000, not 0."),
        (["launcher=slurm", "slurm.hours=long"], "slurm.hours must be a number, not 'long'."),
        (["launcher=wandb", "slots=2"], "launcher 'wandb' has no argument 'slots'"),
        (["slurm.partition=gpu"], "there is no key 'slurm.partition'"),
        (["nodes=2"], "one node"),
    ],
)
def test_launcher_mistakes_are_answered(workdir, capsys, flags, message):
    assert main(["ablate", "table1", "base=scenes", *flags]) == 2
    assert message in capsys.readouterr().err


def test_unknown_table_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'table1'"):
        read_table("tabel1")


def descendants(process: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    try:
        children = [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [number for child in children for number in (child, *descendants(child))]


def read_results(directory: Path) -> dict[str, bytes]:
    """Return the files of a sweep's table, and the results of its rows."""
    paths = [*directory.glob("runs/tables/*"), *directory.glob("runs/scenes/*/seed0/metrics.json")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.long
def test_sweep_that_is_killed_twice_ends_with_the_same_table(workdir, forking):
    """All of its processes are killed with SIGKILL: while its first two rows train, and while others do."""
    small = [override for override in TINY if not override.startswith("steps")]
    overrides = ["base=scenes", "slots=2", "accelerator=cpu", *small, "steps=6", "every.log=1", "every.checkpoint=2"]
    command = [sys.executable, "-m", "lumen", "ablate", "table1", *overrides]
    whole, killed = workdir / "whole", workdir / "killed"
    for directory in (whole, killed):
        directory.mkdir()

    def count_lines() -> int:
        return sum(len(path.read_text().splitlines()) for path in killed.glob("runs/scenes/*/seed0/metrics.jsonl"))

    for num_lines in (3, 20):  # of metrics.jsonl of all rows
        sweep = subprocess.Popen(command, cwd=killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while count_lines() < num_lines and sweep.poll() is None:
            time.sleep(0.02)
        sweep.send_signal(signal.SIGSTOP)  # or it would repeat the runs that are killed
        for number in [*descendants(sweep.pid), sweep.pid]:
            os.kill(number, signal.SIGKILL)
        print(sweep.communicate()[0])
        assert sweep.returncode == -signal.SIGKILL and len(list(killed.glob("runs/scenes/*/seed0/metrics.json"))) < 4
    for directory in (killed, whole):
        subprocess.run(command, cwd=directory, check=True)
    logs = [path.read_text() for path in killed.glob("runs/scenes/*/seed0/log.txt")]
    assert sum(log.count("$ lumen train") for log in logs) > 5 and any("resumes at step" in log for log in logs)
    assert len(read_results(whole)) == 8 and read_results(killed) == read_results(whole)
