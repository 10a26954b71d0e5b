"""Chains: rows that learn from the images of another run, their commands, trials, recipes and comparisons."""

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from types import SimpleNamespace

import pytest
import torch

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.config.identity import result_settings
from lumen.core.errors import BadConfig, BadFile
from lumen.core.files import write_json
from lumen.runs.cost.evaluation import RowCost
from lumen.sweeps import cost, specs, trial
from lumen.sweeps.ablate import list_trials
from lumen.sweeps.reports.html import to_html
from lumen.sweeps.reports.text import to_csv, to_markdown
from lumen.sweeps.results import collect
from lumen.sweeps.table import Table
from lumen.sweeps.table_reader import COMPARED_KEYS, read_table

TABLES = ["table3", "table4"]
# Two tasks of one registry stand for two tasks: a table knows them by their runs alone.
TWO_RUNS = """# Two runs per row
base: scenes
runs: [task=segmentation, task=segmentation precision=32-true]
baseline: real
data: {scenes: {flag: "synthetic.metrics=[] steps=8"}}
rows:
  real: {}
  edges: {synthetic: conditioning=canny}
  labels: {synthetic: conditioning=segmap}
  again: {synthetic: conditioning=segmap, flag: task.domains=null, reference: true}
"""


@pytest.fixture
def two_runs(tmp_path, monkeypatch, workdir):
    """Function that reads a table of two runs per row."""
    monkeypatch.setattr(specs, "files", lambda package: tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "two.yaml").write_text(TWO_RUNS)
    return lambda *overrides, **how: read_table("two", overrides=overrides, **how)


@pytest.mark.parametrize("base", ["scenes", pytest.param("cityscapes", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TABLES)
def test_chain_rows_differ_in_nothing_but_their_images(name, base, workdir):
    table = read_table(name, base, overrides=["data.root=/nowhere"] if base == "cityscapes" else ())
    for part in table.parts:
        first, *others = (result_settings(dump(part.config(row, 0))) for row in part.rows)
        for other in others:
            assert {key for key in first | other if first.get(key) != other.get(key)} <= COMPARED_KEYS
    assert table.baseline == table.rows[0].name and table.rows[0].synthetic is None


def test_printed_commands_name_each_generating_run_once(workdir, capsys):
    assert main(["ablate", "table3", "base=scenes", "seeds=2", "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    generating = {line for line in lines if "task=" not in line}
    second = read_table("table2", "scenes")
    runs = {text: path for row in second.rows for path, text in second.commands(row, 0).items() if row.name != "Blank"}
    assert generating == runs.keys() and len(set(lines)) == len(lines)  # the runs of Table 2, whatever the seeds
    words = {word for line in lines for word in shlex.split(line) if word.startswith("task.synthetic=")}
    assert words == {f"task.synthetic={path}" for path in runs.values()}


def test_chain_takes_overrides_where_they_belong(workdir):
    table = read_table("table4", "scenes", overrides=[
        "task.share=0.5", "synthetic.steps=7", "data.images=64", "LUMEN.synthetic.lr=0.5", "LUMEN.task.share=0.125",
        "runs=elsewhere",
    ])  # fmt: skip
    rows = {row.name: row for row in table.rows}
    generating, learning = table.trainings(rows["LUMEN"], 0).values()
    assert (generating.steps, generating.lr, generating.data["images"], generating.task["name"]) == (
        7, 0.5, 64, "layout_to_image",
    )  # fmt: skip
    assert (learning.steps, learning.data["images"], learning.task["share"]) == (2400, 64, 0.125)
    assert all(str(path).startswith("elsewhere/scenes/") for path in table.commands(rows["LUMEN"], 0))
    assert next(iter(table.trainings(rows["PnP-Diffusion"], 0).values())).steps == 0
    (baseline,) = table.commands(rows["Baseline"], 0).values()
    assert "task.share" not in baseline and "task.domains" not in baseline and "synthetic" not in baseline
    assert "synthetic.steps=7" in table.command and "data.skies" not in table.command


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["LUMEN.steps=3"], "row LUMEN has steps=3, and row Baseline has steps=2400; rows of different recipes"),
        (["LUMEN.batch=3"], "row LUMEN has batch=3"),
        (["task=geometry"], "task is the key in which the rows of table4 differ"),
        (["synthetic.stepz=3"], "stepz"),
    ],
)
def test_chain_of_another_recipe_makes_no_table(overrides, words, workdir):
    with pytest.raises(BadConfig, match=words):
        read_table("table4", "scenes", overrides=overrides)


def test_chain_shares_one_generating_run_among_seeds_and_runs(two_runs):
    table = two_runs(seeds=2)
    trials = {trial.name: trial for trial in list_trials(table)}
    assert list(trials) == ["real seed0", "real seed1", "edges", "labels, again"]
    labels = trials["labels, again"]
    generating, *learning = labels.commands
    assert len(learning) == 8 and set(labels.needs) == set(learning) and set(labels.needs.values()) == {generating}
    assert [length.steps for length in labels.lengths.values()] == [600, *[8] * 8]
    # One command, and not one for each row, seed and run
    assert to_markdown(collect(table)).count("commands are left") == 1
    assert f"{sum(len(trial.commands) for trial in trials.values())} commands are left" in to_markdown(collect(table))


def test_cost_of_a_chain_counts_each_training_and_each_set_of_images_once(two_runs, monkeypatch):
    estimates = []

    def estimate(config):
        estimates.append(config.task["name"])
        assert config.task.get("synthetic") is None  # whose run need not exist
        return SimpleNamespace(cached=1e9, checkpoint=1e6, images=16, views=1, precision="32-true")

    monkeypatch.setattr(cost, "estimate_cost", estimate)
    monkeypatch.setattr(cost, "estimate_evaluation", lambda _: [])
    monkeypatch.setattr(
        cost, "count_sample_flops", lambda config, row: 1e15 if config.conditioning["name"] == "canny" else 2e15
    )
    monkeypatch.setattr(cost, "list_devices", lambda *_: {"this CPU": 1e14})
    lines = cost.format_table_cost(two_runs(seeds=2)).splitlines()[2:]
    assert len(lines) == 2 + 2 * 2 * 4 + 3 and lines[-3].startswith("| 18 trainings |")
    assert lines[-3].endswith("| 32 | 48 |") and sorted(estimates) == ["layout_to_image"] * 2 + ["segmentation"] * 2
    assert lines[-1].startswith("this CPU: at least ") and lines[-1].endswith(" and 8 min of generating images")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.images=64", "task.images=512 is more than the 64 training images"),
        ("synthetic.task=segmentation", "predicts labels; name a run that generates images"),
        ("LUMEN.synthetic.size=32", "was trained with size=32, and this run has size=64"),
        ("task.domains=[dusk]", "dusk"),
        ("task.unseen.skies=[clear]", "'clear', which scenes has too"),
    ],
)
def test_chain_whose_later_run_would_be_refused_starts_none(override, words, workdir, capsys):
    assert main(["ablate", "table4", "base=scenes", "rows=Baseline,LUMEN", "measure.images=8", override]) == 2
    assert words in capsys.readouterr().err and list(workdir.iterdir()) == []


def test_leakage_of_a_chain_is_refused(workdir, capsys):
    assert main(["leakage", "table4", "base=scenes", "rows=Baseline"]) == 2
    assert "have no layouts; name a table that has some" in capsys.readouterr().err


def ended(code: int) -> Popen:
    """Return a process that has ended with this exit code."""
    process = Popen.__new__(Popen)
    process.returncode = code
    return process


@pytest.mark.parametrize(("failing", "count"), [("conditioning=segmap", 2), ("precision=32-true", 1)])
def test_chain_stops_at_a_link_that_fails_and_other_rows_do_not(failing, count, two_runs, monkeypatch):
    started = []

    def start(command, log, environment):
        started.append(command)
        if failing in command:
            return ended(2)
        write_json(log.with_name("metrics.json"), {"val/loss": 1.0})
        return ended(0)

    monkeypatch.setattr(trial, "start", start)
    trials = list_trials(two_runs())
    for chain in trials:
        for _ in chain.run():
            pass
    states = {chain.name: chain.state for chain in trials}
    if count == 2:
        assert states == {"real": "done", "edges": "done", "labels, again": "failed"}
        assert len(trials[2].pending_commands()) == 5 and sum("segmap" in command for command in started) == 1
    else:
        assert set(states.values()) == {"failed"}  # each row's second run; its first one has finished
        assert [len(chain.pending_commands()) for chain in trials] == [1, 1, 2]
    report = trials[2].failure_report()
    assert report.count("to repeat:") == len(trials[2].failures) and "log.txt" in report


def finish(table: Table, finish_run, shift: float) -> None:
    """Finish all runs of a table; rows but the baseline differ from it by a shift."""
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for part, key in zip(table.parts, ["lpips-scenes", "si_depth-scenes"], strict=True):
        for row in part.rows:
            scores = noise + 0.001 * torch.randn(50, generator=torch.Generator().manual_seed(1))
            finish_run(part, row, 0, noise if row.name == "real" else scores + shift, key=key)
        for path in part.generating_run(part.rows[1]), part.generating_run(part.rows[2]):
            write_json(path / "metrics.json", {"val/loss": 1.0})


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_chain_table_says_where_there_is_no_difference(shift, two_runs, finish_run):
    table = two_runs()
    finish(table, finish_run, shift)
    results = collect(table)
    assert [str(key) for key in results.keys] == ["test/lpips-scenes", "test/si_depth-scenes"]
    assert results.num_finished == dict.fromkeys(["real", "edges", "labels", "again"], 1)
    text = to_markdown(results)
    assert text.count("no difference,") == 0 and ("no difference |" in text) == (shift == 0)
    assert ("Δ [" in text) == (shift != 0) and "| *again* |" in text and "commands are left" not in text
    assert not any(cell.best for cell in results.rows["again"])
    head, first, *_ = to_csv(results).splitlines()
    assert head.count("_difference_low") == 2 and len(head.split(",")) == len(first.split(","))
    page = to_html(collect(two_runs()))  # from the cache
    assert page.count("generated images</a>") == 3 and page.count("seed 0, segmentation</a>") == 8
    assert ("no difference" in page) and 'class="reference"' in page


@pytest.mark.long
def test_chain_table_without_its_baseline_compares_with_none(two_runs, finish_run):
    table = two_runs(only=["edges", "labels"])
    finish(two_runs(), finish_run, 0.0)
    assert "no difference |" not in to_markdown(collect(table))


@pytest.mark.parametrize(
    "line",
    ["runs: task=segmentation", "runs: [3]", "baseline: none", "data: [a]", "data: {scenes: {flag: 3}}",
     "data: {scenes: {rows: {a: {flag: 3}}}}"],
)  # fmt: skip
def test_damaged_chain_of_a_table_is_named(line, tmp_path, monkeypatch):
    monkeypatch.setattr(specs, "files", lambda package: tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "two.yaml").write_text(f"base: scenes\n{line}\nrows: {{a: {{}}}}\n")
    with pytest.raises(BadFile, match=r"two\.yaml"):
        read_table("two")


# A Stable Diffusion of two blocks, which takes a third of the time that four blocks take.
PIPELINE = next(Path(__file__).parents[1].glob("runs/fixtures/*/pipeline"))
TINY = [
    "base=scenes",
    "rows=Baseline,LUMEN,own captions",
    "size=32",
    f"diffusion.weights={PIPELINE}",
    "data.images=8",
    "task.images=8",
]
TINY += [
    "batch=2",
    "synthetic.batch=2",
    "steps=4",
    "synthetic.steps=4",
    "synthetic.conditioning.vectors=60",
    "warmup=1",
]
TINY += ["validation=2", "synthetic.validation=2", "measure.images=4", "synthetic.sampling.steps=1", "wandb=disabled"]
TINY += ["synthetic.sampling.images=1", "every.log=1", "every.checkpoint=1", "accelerator=cpu"]


def read_results(directory: Path) -> dict[str, bytes]:
    """Return the files of a sweep's table, and the results of its runs."""
    paths = [*directory.glob("runs/tables/*"), *directory.glob("runs/scenes/*/seed0/metrics.json")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.slow
def test_chain_that_is_killed_twice_ends_with_the_bytes_of_an_undisturbed_one(workdir, forking):
    """All of its processes are killed with SIGKILL: first while a run learns to generate, then while one learns."""
    command = [sys.executable, "-m", "lumen", "ablate", "table4", *TINY]
    whole, killed = workdir / "whole", workdir / "killed"
    for directory in (whole, killed):
        directory.mkdir()

    def count_started() -> int:
        return len({path.parent for path in killed.glob("runs/scenes/*/seed0/checkpoints/*.ckpt")})

    for number_of_runs in (2, 3):  # with a checkpoint: the first is the baseline, the second the generating run
        sweep = subprocess.Popen(command, cwd=killed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while count_started() < number_of_runs and sweep.poll() is None:
            time.sleep(0.02)
        sweep.send_signal(signal.SIGSTOP)  # or it would repeat the runs that are killed
        for number in [*descendants(sweep.pid), sweep.pid]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        print(sweep.communicate()[0])
        assert sweep.returncode == -signal.SIGKILL
    for directory in (killed, whole):
        subprocess.run(command, cwd=directory, check=True)
    assert len(read_results(whole)) >= 8 and read_results(killed) == read_results(whole)
    text = (whole / "runs/tables").glob("table4-*.md")
    assert all("| *own captions* | 1/1 |" in path.read_text() for path in text)


def descendants(process: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    try:
        children = [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [number for child in children for number in (child, *descendants(child))]


def test_cost_of_evaluations_counts_rows_that_runs_share_once(monkeypatch):
    costs = [RowCost("samples", 10, 2e15, 1e15, is_shared=False), RowCost("caption alone", 10, 1e15, 0, is_shared=True)]
    monkeypatch.setattr(cost, "estimate_evaluation", lambda _: costs)
    runs = [load("scenes", [flag]) for flag in ("backbone=dino", "backbone=clip", "seed=1", "sampling.steps=3")]
    (line,) = cost._format_evaluations(runs)
    assert "11 PFLOP to make 70 images, 4 to score them" in line
