"""Commands for a finished run, photos and tables, and help."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.__main__ import COMMANDS, main
from lumen.config.experiment import reload
from lumen.core.interfaces import trainable_parameters
from lumen.core.registry import backbones
from lumen.runs.build import build_task
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.runs.evaluate import restore
from lumen.training.callbacks import EMA


def test_eval_command_writes_a_directory_of_its_own(finished):
    assert main(["eval", str(finished), "sampling.steps=3"]) == 0
    second = json.loads((finished / "eval" / "sampling.steps=3" / "metrics.json").read_text())
    first = json.loads((finished / "metrics.json").read_text())
    assert second["sampling"]["steps"] == 3 and first["sampling"]["steps"] == 2
    assert second["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)


def test_restored_task_has_the_averaged_weights(finished):
    config = reload(load_run_config(finished))
    task = build_task(config, build_data(config))
    path = finished / "checkpoints" / "step00000004.ckpt"
    restore(task, path)
    averaged = torch.load(path, weights_only=True)["callbacks"][EMA.state_key]["shadow_params"]
    assert all(torch.equal(a, b) for a, b in zip(trainable_parameters(task), averaged, strict=True))


def test_sample_command_depends_on_its_seed_alone(finished, photo, workdir):
    for name, overrides in {"one": [], "two": [], "three": ["seed=1"]}.items():
        arguments = ["sample", str(finished), str(photo), "a house at night", f"out={name}.png", *overrides]
        assert main(arguments) == 0
    one, two, three = (np.asarray(Image.open(f"{name}.png")) for name in ("one", "two", "three"))
    assert (one == two).all() and (one != three).any()


@pytest.mark.parametrize("name", backbones.names())
def test_layout_command_takes_every_backbone(name, photo, workdir):
    assert main(["layout", str(photo), str(photo), "base=scenes", f"backbone={name}", "conditioning.components=4"]) == 0
    assert Image.open("layout.png").size[1] > 300


def test_table_commands_run_row_by_row_and_print(tiny, workdir, capsys):
    options = ["base=scenes", *tiny, "steps=1", "wandb=disabled"]
    assert main(["ablate", "components", *options, "--print"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 6 and all(c.startswith("lumen train scenes conditioning.components=") for c in commands)
    assert main(["table", "components", *options]) == 0
    assert capsys.readouterr().out.count("0/1") == 6
    for command in commands[:2]:
        assert main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    assert main(["table", "components", *options]) == 0
    output = capsys.readouterr().out
    assert output.count("1/1") == 2 and "layout/explained_variance" in output


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["train", "-h"]])
def test_help_names_every_command(arguments, capsys):
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert all(f"{command.usage}\n" in output and command.help.endswith(".") for command in COMMANDS.values())
