"""Damaged files of a table's runs: the run is left out, one line says so, and the other rows stay as they are."""

import pytest
import torch
import yaml
from PIL import Image

from lumen.__main__ import main
from lumen.core.errors import BadFile
from lumen.core.files import write_json
from lumen.core.visualize import make_grid, preview_columns, save_grid
from lumen.sweeps import specs
from lumen.sweeps.results import collect
from lumen.sweeps.table import Table
from lumen.sweeps.table_reader import read_table
from lumen.sweeps.trial import Length, Trial

OPTIONS = ["table1", "base=scenes"]
PROVENANCE = {"command": "lumen train scenes", "commit": None, "versions": {}, "data": "a"}
PROVENANCE |= {"hardware": {"gpus": [], "cpus": 2, "machine": "x86_64"}}


@pytest.fixture
def directory(table, finish_run):
    """Directory of the first of two finished runs."""
    for number, row in enumerate(table.rows[:2]):
        scores = torch.randn(50, generator=torch.Generator().manual_seed(number))
        values = {"val/loss": 0.5, "test/miou/sky": 0.25, "sampling": {"images": 1}}
        finish_run(table, row, 0, scores, **values)
        path = list(table.commands(row, 0))[-1]
        image = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
        columns = preview_columns(image, image[:, :, ::2, ::2], [image])
        save_grid(make_grid(columns, ["a", "b"]), ["a", "b"], path / "grid.png")
        write_json(path / "provenance.json", PROVENANCE)
        (path / "metrics.jsonl").write_text('{"step": 1, "val/loss": 0.5}\n')
    return list(table.commands(table.rows[0], 0))[-1]


RESULTS = [b"", b"{}", b"null", b"[]", b"\xff", b"{", b"[" * 100_000, b'{"test/miou": "x"}', b'{"steps": 2}']
SCORES = [b"", b"PAR1garbage", b"PAR1" + bytes(400) + b"PAR1", b"\xff" * 99]
DAMAGES = [("metrics.json", content) for content in RESULTS] + [("samples.parquet", content) for content in SCORES]


def two_rows() -> Table:
    return read_table("table1", base="scenes", only=["CLIP", "DINO"])


def test_damaged_run_is_not_finished(directory):
    for content in RESULTS:
        (directory / "metrics.json").write_bytes(content)
        table = two_rows()
        assert [len(table.finished_runs(row)) for row in table.rows] == [0, 1] and list(table.problems) == [directory]
        assert len(table.pending_commands(table.rows[0], 0)) == 1


@pytest.mark.parametrize(("name", "content"), [DAMAGES[1], *DAMAGES[-len(SCORES) :]])
def test_damaged_run_is_left_out_of_results(name, content, directory):
    (directory / name).write_bytes(content)
    for _ in range(2):  # with and without cached cells of the other row
        table = two_rows()
        assert collect(table).num_finished == {"CLIP": 0, "DINO": 1}
        (problem,) = table.problems.values()
        assert problem.startswith(str(directory / name)) and problem.endswith(".")
    assert (directory / name).read_bytes() == content


@pytest.mark.parametrize(("name", "content"), [DAMAGES[1], DAMAGES[-1]])
def test_damaged_run_is_left_out_of_a_table_in_one_line(name, content, directory, capsys):
    (directory / name).write_bytes(content)
    assert main(["table", *OPTIONS, "rows=CLIP,DINO"]) == 0
    output = capsys.readouterr()
    assert "| CLIP | 0/1 |" in output.out and "| DINO | 1/1 |" in output.out
    assert output.err.startswith(f"lumen: left out: {directory / name} ") and output.err.count("\n") == 1


def test_damaged_run_changes_no_value_of_the_others(directory):
    before = collect(two_rows()).rows["DINO"]
    (directory / "metrics.json").write_text("{")
    after = collect(two_rows()).rows["DINO"]
    assert [(cell.value, cell.interval) for cell in after] == [(cell.value, cell.interval) for cell in before]


def test_damaged_grid_is_left_out_of_the_sheet(directory, capsys):
    path = directory / "grid.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    for _ in range(2):
        assert main(["table", *OPTIONS, "rows=CLIP,DINO"]) == 0
        output = capsys.readouterr()
        assert output.err.count("left out") == 1 and str(path) in output.err and "| CLIP | 1/1 |" in output.out
        assert "table1-scenes.png" in output.out


REPORTED = [("grid.png", None), ("provenance.json", b'{"command": 3}')]
REPORTED += [("metrics.jsonl", bytes(9) + b'{"step": 0, "val/loss": 1}\n{"step": []}\n')]


@pytest.mark.parametrize(("name", "content"), REPORTED)
def test_damaged_run_is_left_out_of_a_report(name, content, directory, capsys):
    if content is None:
        Image.new("RGB", (3, 3)).save(directory / name)
    else:
        (directory / name).write_bytes(content)
    assert main(["report", *OPTIONS, "rows=CLIP,DINO"]) == 0
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("lumen: left out: ")]
    assert len(lines) == 1 and str(directory / name) in lines[0] and "table1-scenes.html" in output.out


@pytest.mark.parametrize("content", RESULTS)
def test_trial_with_damaged_results_is_pending(content, tmp_path):
    trial = Trial("a", {tmp_path: "lumen train scenes"}, {tmp_path: Length(4, 2)})
    (tmp_path / "metrics.json").write_bytes(content)
    assert list(trial.pending_commands()) == [tmp_path] and str(tmp_path) in trial.find_problems()[0]
    (tmp_path / "metrics.json").write_text('{"val/loss": 1}')
    assert trial.pending_commands() == {} and trial.find_problems() == []


@pytest.mark.parametrize("line", ["3", "[]", "[[1, 2]]", "\0\0", "[" * 9_000, '{"step": "x", "train/loss": []}'])
def test_trial_progress_passes_damaged_lines_over(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "train/loss": 0.5}}\n{line}\n')
    assert Trial("a", {tmp_path: "lumen train scenes"}, {tmp_path: Length(4, 2)}).progress() == (2, 0.5, None)


@pytest.mark.parametrize(
    "spec",
    ["", "[", "\0", "[]", "rows: {a: {}}", "base: scenes", "base: 3\nrows: {a: {}}", "base: scenes\nrows: {}"]
    + ["base: scenes\nrows: [a]", "base: scenes\nrows: {a: 3}", "base: scenes\nrows: {a: {flag: 3}}", "[" * 600]
    + ["base: scenes\nrows: {a: {published: {coco: 3}}}", "base: scenes\ncurve: miou\nrows: {a: {}}"],
)
def test_damaged_file_of_a_table_is_named(spec, tmp_path, monkeypatch):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.yaml").write_text(spec)
    monkeypatch.setattr(specs, "files", lambda package: tmp_path)
    with pytest.raises(BadFile, match="mine.yaml .*; correct it"):
        read_table("mine")
    good = {"base": "scenes", "rows": {"a": {"flag": "backbone=dino"}}}
    (tmp_path / "tables" / "mine.yaml").write_text("# A title\n" + yaml.safe_dump(good))
    assert read_table("mine").title == "A title"
