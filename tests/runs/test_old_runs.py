"""Runs of earlier commits: their checkpoints, configs, results and directory names stay valid.

fixtures/<commit> holds a tiny diffusers folder and two runs of one command, as the code of that commit wrote them: one
that was stopped at step 4 of 6, and one that finished.
"""

import ast
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.config.experiment import reload
from lumen.core import registry
from lumen.core.hashing import hash_file
from lumen.core.interfaces import trainable_parameters
from lumen.core.registry import conditionings
from lumen.runs.build import build_task
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.training import checkpoint_io

COMMITS = sorted((Path(__file__).parent / "fixtures").iterdir())


@pytest.fixture(params=COMMITS, ids=lambda path: path.name)
def old_runs(request, workdir) -> Path:
    """A copy of the runs of an earlier commit, in the directory where they were started."""
    shutil.copytree(request.param, workdir, dirs_exist_ok=True)
    return workdir


def only_run(runs: Path) -> Path:
    (path,) = runs.glob("scenes/*/seed*")
    return path


def read_command(run: Path) -> list[str]:
    """Return the arguments of the command that started a run."""
    return shlex.split(json.loads((run / "provenance.json").read_text())["command"])[1:]


def read_results(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def hash_files(directory: Path) -> dict[Path, str]:
    return {path: hash_file(path) for path in directory.rglob("*") if path.is_file()}


def resume_stopped_run(old_runs: Path, capsys) -> None:
    """Resume the stopped run with the command that started it, and compare it with the finished run."""
    stopped, finished = only_run(old_runs / "stopped"), only_run(old_runs / "finished")
    assert main(read_command(stopped)) == 0
    assert f"{stopped.relative_to(old_runs)} resumes at step 4:" in capsys.readouterr().out
    assert only_run(old_runs / "stopped") == stopped  # no other directory
    results, expected = read_results(stopped), read_results(finished)
    # Other processors round otherwise.
    assert results["val/loss"] == pytest.approx(expected["val/loss"], rel=1e-4)
    assert results["test/lpips-scenes"] == pytest.approx(expected["test/lpips-scenes"], rel=1e-3)
    lines = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(6))


def test_old_run_resumes(old_runs, capsys):
    resume_stopped_run(old_runs, capsys)


def test_old_run_resumes_although_its_conditioning_has_a_new_argument(old_runs, monkeypatch, capsys):
    """A key that an older config lacks counts as its default."""
    parse = registry._parse
    new = ast.parse("lambda sharpness=1.5: None", mode="eval").body.args

    def parse_with_argument(path: str, noun: str) -> registry._Source:
        source = parse(path, noun)
        if Path(path).stem != "neural_layout":
            return source
        old = source.parameters
        parameters = ast.arguments(**dict(ast.iter_fields(old)))
        parameters.args, parameters.defaults = [*old.args, *new.args], [*old.defaults, *new.defaults]
        return replace(source, parameters=parameters)

    def build_layout(sharpness: float, **arguments: Any) -> NeuralLayout:
        values.append(sharpness)
        return NeuralLayout(**arguments)

    values: list[float] = []
    monkeypatch.setattr(registry, "_parse", parse_with_argument)
    monkeypatch.setitem(conditionings._factories, NeuralLayout.__module__, build_layout)
    assert "sharpness" in conditionings.arguments("neural_layout")
    resume_stopped_run(old_runs, capsys)
    assert values == [1.5]


def test_old_run_that_is_finished_is_left_alone(old_runs, capsys):
    run, before = only_run(old_runs / "finished"), hash_files(old_runs)
    assert main(read_command(run)) == 0
    assert str(run.relative_to(old_runs)) in capsys.readouterr().out
    assert hash_files(old_runs) == before


def test_old_run_is_evaluated_again_under_the_same_protocol(old_runs):
    run = only_run(old_runs / "finished")
    assert main(["eval", str(run.relative_to(old_runs))]) == 0
    results, expected = read_results(run / "eval" / "default"), read_results(run)
    for key in ("val/loss", "test/lpips-scenes", "text/lpips-scenes", "shuffled/lpips-scenes"):
        assert results[key] == pytest.approx(expected[key], rel=1e-3)
    release_keys = {"lumen", "hash"}  # the version of LUMEN, and the hash that covers it
    rules, expected_rules = (values["protocol"] for values in (results, expected))
    assert {key: rules[key] for key in rules.keys() - release_keys} == {
        key: expected_rules[key] for key in expected_rules.keys() - release_keys
    }


def test_old_run_is_tabulated_without_training(old_runs, capsys):
    run = only_run(old_runs / "finished")
    before = hash_files(run)
    _, base, *flags = read_command(run)
    flags.remove("conditioning.components=5")  # the override of the row
    assert main(["table", "components", f"base={base}", "rows=N=5", *flags]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| N=5 |")]
    assert "| 1/1 |" in row and f"{read_results(run)['test/lpips-scenes']:.3f}"[:4] in row
    assert hash_files(run) == before and only_run(old_runs / "finished") == run


def test_old_run_is_restored_with_its_averaged_weights(old_runs):
    run = only_run(old_runs / "finished").relative_to(old_runs)
    config = reload(load_run_config(run))
    path = select_checkpoint(run, config)
    checkpoint = checkpoint_io.read(path)
    task = build_task(config, build_data(config))
    restore(task, path)
    averages, weights = checkpoint["callbacks"]["Average"]["shadow_params"], trainable_parameters(task)
    assert len(averages) == len(weights) > 0
    assert all(torch.equal(weight, average) for weight, average in zip(weights, averages, strict=True))
    raw = [checkpoint["state_dict"][name] for name, _ in task.named_parameters()]
    assert not all(torch.equal(weight, average) for weight, average in zip(raw, averages, strict=True))
