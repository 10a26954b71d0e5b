"""The sweep that launcher=wandb writes, read and run as W&B's agent does."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

from lumen.__main__ import main

AGENT = {"WANDB_RUN_ID": "of-the-agent", "WANDB_SWEEP_ID": "sweep"}


def commands(sweep: dict) -> list[list[str]]:
    """What wandb_agent.py makes of each value of the grid."""
    made = []
    (key,) = sweep["parameters"]
    for value in sweep["parameters"][key]["values"]:
        given = create_sweep_command_args({"args": {key: {"value": value}}}) | {"env": ["/usr/bin/env"]}
        words = create_sweep_command(list(sweep["command"]))
        made.append([word for c in words for word in (given[c[2:-1]] if c.startswith("${") else [c])])
    return made


@pytest.fixture
def told(place, monkeypatch):
    """Puts a `lumen` on the path that writes down what it was asked for and by which W&B run."""
    script = place / "bin" / "lumen"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s|" "$WANDB_RUN_ID" "$@" >> told\necho >> told\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return lambda: [line.rstrip("|").split("|") for line in (place / "told").read_text().splitlines()]


@pytest.mark.parametrize("name", ["table1", "edits"])
def test_an_agent_runs_the_very_commands(name, told, place, capsys):
    flags = ["ablate", name, "base=scenes", "seeds=2", "runs=my runs", "diffusion.weights=none"]
    assert main([*flags, "--print"]) == 0
    wanted = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    assert main([*flags, "launcher=wandb"]) == 0
    said = capsys.readouterr().out
    (file,) = Path("my runs", "tables").glob("*.sweep.yaml")
    assert f"wandb sweep '{file}'" in said and re.search("wandb agent --forward-signals lumen/ID", said)
    sweep = load_sweep_config(str(file))
    assert sweep["method"] == "grid" and sweep["project"] == "lumen" and sweep["program"]
    for command in commands(sweep):
        subprocess.run(command, check=True, env=os.environ | AGENT)
    assert [words for _, *words in told()] == wanted
    # the agent's run is the training's; a measuring would write over its figures
    assert {(words[0], run) for run, *words in told()} <= {("train", "of-the-agent"), ("eval", "")}


def test_only_what_is_left_is_in_the_sweep(place, capsys):
    assert main(["ablate", "table1", "base=scenes", "--print"]) == 0
    _, *others = capsys.readouterr().out.splitlines()
    done = Path("runs/scenes/backbone=clip/seed0/metrics.json")
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    assert main(["ablate", "table1", "base=scenes", "launcher=wandb"]) == 0
    (file,) = Path("runs/tables").glob("*.sweep.yaml")
    values = load_sweep_config(str(file))["parameters"]["trial"]["values"]
    assert values == [f"exec {command}" for command in others]
