"""Grids: lists on the command line make a table whose runs, files and statistics are those of any table."""

import shlex

import pytest
import torch

from lumen.__main__ import main
from lumen.config.experiment import load
from lumen.core.errors import BadConfig
from lumen.runs.directory import run_directory
from lumen.sweeps.ablate import list_trials
from lumen.sweeps.grid import read_grid
from lumen.sweeps.reports.files import save
from lumen.sweeps.reports.html import to_html
from lumen.sweeps.reports.text import to_markdown
from lumen.sweeps.results import collect
from lumen.sweeps.table_reader import read_table

LISTS = ["backbone=dino,clip", "conditioning.components=[5,20]"]


def commands(table):
    return [command for trial in list_trials(table) for command in trial.commands.values()]


def test_grid_has_a_row_for_each_combination_with_the_folder_of_lumen_train():
    assert list(read_grid("scenes", LISTS, 1).rows) == ["dino, 5", "dino, 20", "clip, 5", "clip, 20"]
    table = read_table("scenes", overrides=[*LISTS, "lr=1e-4"], seeds=2, only=["clip, 20"])
    assert commands(table)[1] == "lumen train scenes backbone=clip conditioning.components=20 lr=1e-4 seed=1"
    run = run_directory(load("scenes", ["lr=1e-4", "conditioning.components=20", "backbone=clip"]))
    assert next(iter(table.commands(table.rows[0], 0))) == run


@pytest.mark.parametrize(
    ("overrides", "flags"),
    [
        (["backbone=[dino,clip]"], ["backbone=dino", "backbone=clip"]),
        (["backbone=sd", "backbone.layers=[[2,5],[8]]"], ["'backbone.layers=[2,5]'", "'backbone.layers=[8]'"]),
        (["lr=1e-4, 2e-4", "metrics=[miou,lpips]"], ["lr=1e-4", "lr=2e-4"]),
        (["ema=0,0.5", "backbone=[dino]"], ["ema=0", "ema=0.5"]),
        (["diffusion.weights='a,b',none"], ["diffusion.weights=a,b", "diffusion.weights=none"]),
    ],
)
def test_grid_takes_a_list_where_a_key_takes_one_value(overrides, flags):
    assert [fields["flag"] for fields in read_grid("scenes", overrides, 1).rows.values()] == flags


def test_grid_of_evaluations_trains_one_run():
    table = read_table("scenes", overrides=["eval.sampling.steps=5,10"])
    (trial,) = list_trials(table)
    assert [path.name for path in trial.commands] == ["seed0", "sampling.steps=5", "sampling.steps=10"]


def test_grid_without_lists_compares_seeds():
    table = read_table("scenes", overrides=["backbone=dino"], seeds=3)
    assert len(commands(table)) == 3 and [row.name for row in table.rows] == ["scenes"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "nothing is compared"),
        (["bakbone=dino,clip"], "did you mean 'backbone'"),
        (["eval.samplign.steps=5,10"], "no key 'samplign.steps'"),
        (["backbone=dino,dino"], "twice"),
        (["backbone=dino,,clip"], "cannot be 'dino,,clip'"),
        (["size=32,64"], "different protocols.*write a single value"),
        (["sampling.steps=5,10"], "write eval.sampling.steps=5,10"),
        (["seed=0,1", "backbone=dino,clip"], "write seeds=3"),
        ([f"steps={','.join(map(str, range(1, 1002)))}"], "1,001 rows"),
        (["backbone=dino,{a: b}"], "cannot be"),
    ],
)
def test_grid_that_compares_nothing_is_refused(overrides, words):
    with pytest.raises(BadConfig, match=words):
        read_grid("scenes", overrides, 1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["ema=0.5,.5"], "the rows 0.5 and .5 are the same run"),
        (["ema=0,0.5", "name=mine"], "folder of a single run"),
        (["eval.lr=1e-3,1e-4"], "lr is decided by training"),
        (["ema=0,0.5", "eval.sampling.stesp=5"], "no key 'sampling.stesp'"),
    ],
)
def test_grid_whose_rows_cannot_run_is_refused(overrides, words):
    with pytest.raises(BadConfig, match=words):
        read_table("scenes", overrides=overrides)


def test_grid_has_no_other_base_and_a_table_no_folder_name():
    assert main(["ablate", "scenes", *LISTS, "base=scenes", "--print"]) == 2
    assert main(["ablate", "table1", "base=scenes", "name=mine", "--print"]) == 2


def test_grid_command_makes_the_same_grid(capsys):
    words = ["lr=1e-4", "wandb.notes='a, b'", 'rows=["dino, 5","clip, 20"]']
    assert main(["ablate", "scenes", *LISTS, *words, "--print"]) == 0
    printed = capsys.readouterr().out
    table = read_table("scenes", overrides=[*LISTS, *words[:2]], only=["dino, 5", "clip, 20"])
    assert main([*shlex.split(table.command)[1:], "--print"]) == 0
    assert capsys.readouterr().out == printed and printed.count("\n") == len(commands(table))


def test_grid_files_have_short_names_that_the_order_of_flags_does_not_change():
    orders = (["backbone=dino,clip", "ema=0.5"], ["ema=0.5", "backbone=[clip,dino]"])
    names = {read_table("scenes", overrides=order).output_path(".md").name for order in orders}
    assert names == {"scenes-backbone=clip,dino,ema=0.5.md"}
    many = [LISTS[0], "diffusion.weights=none", "weight_decay=1e-3", "workers=0", "lr=1e-3"]
    long = {read_table("scenes", overrides=order).output_path(".md").name for order in (many, many[::-1])}
    assert len(long) == 1 and len(next(iter(long))) < 80


def test_grid_results_have_intervals_and_a_report(workdir, finish_run):
    table = read_table("scenes", overrides=LISTS, only=["dino, 5", "clip, 20"])
    for number, row in enumerate(table.rows):
        noise = torch.randn(200, generator=torch.Generator().manual_seed(number)) * 0.01
        finish_run(table, row, 0, noise + number, sampling={"images": 1})
    results = collect(table)
    *others, best = [cells[0] for cells in results.rows.values()]
    assert best.best and best.interval and all(cell.significant for cell in others)
    text = to_markdown(results)
    assert text.startswith("Grid of backbone and conditioning.components\n") and "| dino, 5 |" in text
    assert all(path.exists() for path in save(results)) and "clip, 20" in to_html(results)
