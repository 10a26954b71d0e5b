"""Tables: every shipped row differs from its base in its flag, runs once, and stands beside the paper's figures."""

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
from lumen.sweeps import table as tables
from lumen.sweeps import trial

TINY = [
    "size=32",
    "diffusion.weights=none",
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


@pytest.mark.parametrize("name", tables.tables())
def test_a_row_is_its_base_and_one_flag(name):
    table = tables.read(name, base="scenes", flags=ROOTS if name == "transfer" else ())
    base = dump(load("scenes"))
    for row in table.rows:
        config = dump(table.config(row, 0))
        slot = row.flag.partition("=")[0].partition(".")[0]
        assert {key for key in base if base[key] != config[key]} <= {slot, "flags"}
    assert table.title and len({(row.flag, row.eval) for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize("name", tables.tables())
def test_a_table_runs_on_its_own_base(name):
    roots = [*(ROOTS if name == "transfer" else ()), *([] if name == "edits" else ["data.root=/nowhere"])]
    assert tables.read(name, flags=roots).base == ("scenes" if name == "edits" else "coco_stuff")
    for root in roots:
        with pytest.raises(BadConfig, match="needs data.root="):
            tables.read(name, flags=[other for other in roots if other != root])


def test_a_row_has_flags_of_its_own_and_others_can_be_left_out(place):
    table = tables.read("transfer", base="scenes", flags=ROOTS, only=["ade20k"])
    ((trained, measured),) = [table.commands(row, 0).values() for row in table.rows]
    assert trained == "lumen train scenes seed=0"
    assert "scenes/default/seed0 data=ade20k" in measured and measured.endswith(" data.root=/nowhere")
    with pytest.raises(UnknownName, match="transfer has no row 'ade'; did you mean 'ade20k'"):
        tables.read("transfer", base="scenes", flags=ROOTS, only=["ade"])


def test_rows_of_one_run_train_it_once_and_measure_it_in_their_ways(place, monkeypatch, capsys):
    launched = []

    def start(command, log, environment):
        launched.append(command.split()[1])
        return ended(main(shlex.split(command)[1:]))

    monkeypatch.setattr(trial, "start", start)
    flags = [flag for flag in TINY if not flag.startswith("metrics")]
    assert main(["ablate", "edits", "rows=as it is,sky", *flags, "metrics=[miou,tifa]"]) == 0
    told = capsys.readouterr().out
    assert launched == ["train", "eval"]
    assert "| as it is | 1/1 |" in told and "| sky | 1/1 |" in told and "*caption alone, sky*" in told
    # of the real pictures, whose captions say otherwise now, no edited word is true
    (real,) = [line.split("|") for line in told.splitlines() if line.startswith("| *real images, sky*")]
    head = next(line.split("|") for line in told.splitlines() if line.startswith("| row"))
    assert float(real[head.index(" tifa ")].split()[0]) == 0


def test_published_figures_are_the_papers():
    published = {row.name: row.published["coco_stuff"] for row in tables.read("table1", base="scenes").rows}
    assert published["SD"] == {"miou": 51.4, "si_depth": 21.5, "fid": 12.2, "lpips": 0.42, "tifa": 0.79}
    assert [published[row]["miou"] for row in ("CLIP", "DINO", "DINOv2")] == [41.7, 49.5, 51.1]
    table = {row.name: row.published for row in tables.read("table2", base="scenes").rows}
    names, paper = ["Canny", "HED", "MiDaS", "SemSeg", "Neural layout"], {}
    paper["coco_stuff"] = [44.4, 49.3, 45.3, 43.3, 52.9], [13.2, 12.1, 14.3, 15.3, 11.8]
    paper["ade20k"] = [35.1, 41.8, 34.0, 35.1, 45.7], [19.1, 17.4, 21.2, 22.6, 16.1]
    for data, (miou, fid) in paper.items():
        assert [table[name][data]["miou"] for name in names] == miou
        assert [table[name][data]["fid"] for name in names] == fid
    assert table.keys() - names == {"Blank"} and not table["Blank"]


def test_rows_run_once_failures_are_named_and_means_are_printed(place, monkeypatch, capsys):
    launched = []

    def start(command, log, environment):
        launched.append(command)
        return ended(1 if "backbone=clip" in command else main(shlex.split(command)[1:]))

    monkeypatch.setattr(trial, "start", start)
    command = ["ablate", "table1", "base=scenes", "seeds=2", *TINY]
    assert main(command) == 1
    told = capsys.readouterr()
    assert len(launched) == 10 and told.err.count("CLIP seed0 failed: exit code 1") == 1
    assert told.err.count("to repeat: lumen train scenes backbone=clip") == 2
    assert "another image's layout" in told.out and "| miou |" in told.out
    assert "| DINO | 2/2 |" in told.out and "| CLIP | 0/2 |" in told.out and "51.4" in told.out
    assert "2 commands are left; `lumen ablate table1 base=scenes seeds=2" in told.out
    launched.clear()
    assert main(command) == 1
    assert len(launched) == 4 and "8 runs, 6 of them done before" in capsys.readouterr().out


def ended(code: int) -> Popen:
    """A process that has ended."""
    process = Popen.__new__(Popen)
    process.returncode = code
    return process


@pytest.mark.parametrize(
    ("codes", "code"),
    [({"clip": 75}, 75), ({"clip": 75, "dino": 1}, 1), ({"clip": 130, "dino": 75}, 75), ({"sd": 2}, 1)],
)
def test_the_exit_code_says_whether_to_repeat_the_command(codes, code, place, monkeypatch, capsys):
    def start(command, log, environment):
        name = re.search(r"backbone=(\w+)", command)[1]
        if name not in codes:
            write_json(log.with_name("metrics.json"), {})
        return ended(codes.get(name, 0))

    monkeypatch.setattr(trial, "start", start)
    monkeypatch.setattr("lumen.cli.tables._print_table", lambda rows: None)
    assert main(["ablate", "table1", "base=scenes", "accelerator=cpu"]) == code
    told = capsys.readouterr()
    assert told.out.count("stopped; the same command goes on with it") == sum(c in (75, 130) for c in codes.values())
    assert told.err.count("to repeat: lumen train") == sum(c in (1, 2) for c in codes.values())


def test_two_runs_side_by_side(place, capsys, forking):
    small = [flag for flag in TINY if not flag.startswith("metrics")]
    assert main(["ablate", "table1", "base=scenes", "rows=CLIP,DINO", "slots=2", *small, "metrics=[]"]) == 0
    told = capsys.readouterr()
    assert "| CLIP | 1/1 |" in told.out and "| DINO | 1/1 |" in told.out and "[2/2] " in told.out and not told.err
    logs = [path.read_text() for path in place.glob("runs/scenes/*/seed0/log.txt")]
    assert len(logs) == 2 and all(log.startswith("$ lumen train scenes") and "figures:" in log for log in logs)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["launcher=slrum"], "no launcher is called 'slrum'; did you mean 'slurm'?"),
        (
            ["launcher=slurm", "slurm.partion=gpu"],
            "launcher 'slurm' has no argument 'partion'; did you mean 'partition'",
        ),
        (["slots=two"], "slots must be a whole number above 0, not 'two'."),
        (["slots=0"], "slots must be a whole number above 0, not 0."),
        (["launcher=slurm", "slurm.hours=long"], "slurm.hours must be float, not 'long'."),
        (["launcher=wandb", "slots=2"], "launcher 'wandb' has no argument 'slots'"),
        (["slurm.partition=gpu"], "there is no key 'slurm.partition'"),
        (["nodes=2"], "a run of a sweep has one node"),
    ],
)
def test_a_launcher_that_cannot_be_is_answered(place, capsys, flags, said):
    assert main(["ablate", "table1", "base=scenes", *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_table_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'table1'"):
        tables.read("tabel1")


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have started."""
    try:
        children = [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *descendants(child))]


def made(place: Path) -> dict[str, bytes]:
    """The files of a sweep's table, and the figures of its rows."""
    found = [*place.glob("runs/tables/*"), *place.glob("runs/scenes/*/seed0/metrics.json")]
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


@pytest.mark.long
def test_a_sweep_that_is_killed_twice_ends_with_the_table_of_one_that_is_not(place):
    """Once while its first two rows train, once while others do: with SIGKILL, and every process of it."""
    small = [flag for flag in TINY if not flag.startswith("steps")]
    flags = ["base=scenes", "slots=2", "accelerator=cpu", *small, "steps=6", "every.log=1", "every.checkpoint=2"]
    command = [sys.executable, "-m", "lumen", "ablate", "table1", *flags]
    whole, killed = place / "whole", place / "killed"
    for folder in (whole, killed):
        folder.mkdir()

    def steps() -> int:
        return sum(len(path.read_text().splitlines()) for path in killed.glob("runs/scenes/*/seed0/metrics.jsonl"))

    for enough in (3, 20):  # steps of all rows; validations have lines too
        sweep = subprocess.Popen(command, cwd=killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while steps() < enough and sweep.poll() is None:
            time.sleep(0.02)
        sweep.send_signal(signal.SIGSTOP)  # or it would try again what is killed
        for each in [*descendants(sweep.pid), sweep.pid]:
            os.kill(each, signal.SIGKILL)
        print(sweep.communicate()[0])
        assert sweep.returncode == -signal.SIGKILL and len(list(killed.glob("runs/scenes/*/seed0/metrics.json"))) < 4
    for folder in (killed, whole):
        subprocess.run(command, cwd=folder, check=True)
    logs = [path.read_text() for path in killed.glob("runs/scenes/*/seed0/log.txt")]
    assert sum(log.count("$ lumen train") for log in logs) > 5 and any("continues at step" in log for log in logs)
    assert len(made(whole)) == 8 and made(killed) == made(whole)
