"""Name of a run's folder: another path for the same run, never another run in the same folder."""

from pathlib import Path

import pytest

from lumen.__main__ import main
from lumen.config.checks import find_folder_problem
from lumen.config.experiment import dump, load, reload
from lumen.config.identity import config_digest, run_name
from lumen.core.errors import BadConfig, RunBusy
from lumen.core.files import write_json
from lumen.runs.directory import (
    eval_directory,
    group_name,
    load_finished,
    load_run_config,
    run_directory,
    write_or_verify_config,
)

NAMED = ["name=mybaseline", "backbone=clip"]
UNSAFE = ["../up", "a/b", "/tmp", ".hidden", "..", "end.", "-rf", "a b", "n" * 61, "\u03b1"]
TAKEN = ["default", "eval", "seed0", "backbone=clip", "a,b"]


def test_folder_name_moves_a_run_and_is_no_part_of_its_identity():
    named, plain = load("scenes", NAMED), load("scenes", NAMED[1:])
    assert run_directory(named) == Path("runs/scenes/mybaseline/seed0")
    assert group_name(run_directory(named)) == "scenes/mybaseline"
    assert config_digest(dump(named)) == config_digest(dump(plain))
    assert run_name(dump(named)) == run_name(dump(plain)) == "backbone=clip"


@pytest.mark.parametrize("name", [*UNSAFE, *TAKEN])
def test_folder_name_that_is_unsafe_or_taken_is_refused(name):
    assert "name=mybaseline" in find_folder_problem(name)


def test_folder_name_is_refused_with_the_config():
    with pytest.raises(BadConfig, match="name cannot be '../up'"):
        load("scenes", ["name=../up"])


@pytest.mark.parametrize("seed", [0, 1])
def test_folder_name_holds_one_config_whatever_the_seed(seed, workdir):
    config = load("scenes", NAMED)
    write_or_verify_config(run_directory(config), config)
    other = load("scenes", ["name=mybaseline", "backbone=dino", f"seed={seed}"])
    with pytest.raises(RunBusy, match="backbone.name was 'clip', is now 'dino'.*another name than mybaseline"):
        write_or_verify_config(run_directory(other), other)
    second = load("scenes", [*NAMED, "seed=1"])
    write_or_verify_config(run_directory(second), second)


def test_folder_name_of_a_finished_run_of_another_config_is_refused(workdir):
    config = load("scenes", NAMED)
    write_or_verify_config(run_directory(config), config)
    write_json(run_directory(config) / "metrics.json", {"val/loss": 0.5})
    assert load_finished(run_directory(config), config) == {"val/loss": 0.5}
    assert main(["train", "scenes", "name=mybaseline", "backbone=dino"]) == 2
    assert main(["train", "scenes", "name=mybaseline", "backbone=dino", "seed=5"]) == 2
    assert [path.name for path in Path("runs/scenes/mybaseline").iterdir()] == ["seed0"]


def test_folder_name_leaves_evaluations_where_they_are(workdir):
    config = load("scenes", NAMED)
    run = run_directory(config)
    write_or_verify_config(run, config)
    for seed in (1, 2):
        again = reload(load_run_config(run), [f"seed={seed}", f"sampling.steps={seed}"])
        write_or_verify_config(eval_directory(run, again), again)
    assert len(list((run / "eval").iterdir())) == 2
    assert main(["eval", str(run), "name=other"]) == 2
