"""Cache of a table's cells: an unchanged table is printed without torch, and a changed run is noticed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from lumen.__main__ import main
from lumen.sweeps import table_cache
from lumen.sweeps.results import collect
from lumen.sweeps.table_cache import CachedJSON, hash_inputs
from lumen.sweeps.table_reader import read_table

# A process that cannot import torch; it prints the modules that it must not need.
WITHOUT_TORCH = """
import sys, time
for name in ("torch", "lightning", "matplotlib", "numpy"):
    sys.modules[name] = None
from lumen.__main__ import main
code = main(sys.argv[1:])
print(f"{time.process_time():.2f} s", file=sys.stderr)
sys.exit(code)
"""
COMMAND = ["table", "components", "base=scenes"]


def noise(seed):
    return torch.randn(50, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def table(workdir, finish_run):
    """A table with a curve, of which two rows have finished."""
    table = read_table("components", base="scenes")
    for number, row in enumerate(table.rows[:2]):
        finish_run(table, row, 0, noise(number), **{"test/miou": 0.5 + number / 10, "real/miou": 0.9})
    return table


def run_without_torch(*command):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_TORCH, *command], capture_output=True, text=True, env=environment
    )


def cache_files(workdir):
    return sorted(path.name for path in workdir.glob("runs/tables/cache/*"))


def test_cache_prints_an_unchanged_table_without_torch(table, workdir, capsys):
    assert main(COMMAND) == 0
    output = capsys.readouterr().out
    pictures = {path: path.stat().st_mtime_ns for path in workdir.glob("runs/tables/*.png")}
    assert "[" in output and "components-scenes-curve.png" in output and len(pictures) == 1
    process = run_without_torch(*COMMAND)
    assert process.returncode == 0 and process.stdout == output, process.stderr
    assert float(process.stderr.split()[-2]) < 1.0  # seconds of CPU
    assert pictures == {path: path.stat().st_mtime_ns for path in workdir.glob("runs/tables/*.png")}


def test_cache_is_not_used_for_changed_scores(table, finish_run):
    before = collect(table)
    finish_run(table, table.rows[1], 0, noise(1).flip(0) * 2, **{"test/miou": 0.6, "real/miou": 0.9})
    after = collect(table)
    before, after = (results.column("lpips-scenes")[0][table.rows[1].name] for results in (before, after))
    assert before.interval and before.interval != after.interval
    assert collect(table).column("lpips-scenes")[0][table.rows[1].name] == after


def test_cache_needs_torch_for_scores_that_are_swapped_between_images(table, workdir, capsys):
    """The mean and metrics.json stay the same, and so does the size of samples.parquet."""
    assert main(COMMAND) == 0
    file = next(iter(table.commands(table.rows[1], 0))) / "samples.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    assert run_without_torch(*COMMAND).returncode != 0


def test_cache_keeps_the_order_of_rows_and_knows_which_rows_there_are(table):
    rows, second = collect(table).rows, table.rows[1].name
    fewer = collect(read_table("components", base="scenes", only=[second]))
    assert list(fewer.rows) == [second] and not any(cell.best for cell in fewer.rows[second])
    assert collect(table).rows == rows and list(collect(table).rows) == [row.name for row in table.rows]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"inputs": 1}'])
def test_cache_that_is_damaged_is_computed_again(table, workdir, damage):
    rows = collect(table).rows
    file = table.cache_path(".json")
    content = file.read_bytes()
    file.write_bytes(damage)
    assert collect(table).rows == rows and file.read_bytes() == content


def test_cache_with_a_changed_number_is_computed_again(table, workdir):
    rows = collect(table).rows
    file = table.cache_path(".json")
    record = json.loads(file.read_text())
    record["content"][table.rows[0].name][0]["value"] = 12345.0
    file.write_text(json.dumps(record))
    assert collect(table).rows == rows


def test_cache_that_cannot_be_written_is_no_error(table, workdir):
    directory = table.cache_path(".json").parent
    directory.parent.mkdir(parents=True)
    directory.write_text("a file where a directory is needed")
    assert collect(table).rows == collect(table).rows and main(COMMAND) == 0


def test_cache_holds_one_file_per_table_however_often_runs_change(table, workdir, finish_run):
    for seed in range(2):
        finish_run(table, table.rows[0], 0, noise(seed), **{"test/miou": 0.5, "test/miou/sky": 0.5, "real/miou": 0.9})
        assert main(COMMAND) == 0 and main([*COMMAND, "parts=miou"]) == 0
    names = ["components-scenes-miou.json", "components-scenes-pictures.json", "components-scenes.json"]
    assert cache_files(workdir) == names


def test_cache_keeps_pictures_that_show_the_same(table, workdir):
    assert main(COMMAND) == 0
    (picture,) = workdir.glob("runs/tables/*.png")
    content = picture.read_bytes()
    picture.unlink()
    assert main(COMMAND) == 0 and picture.read_bytes() == content


def test_hash_of_inputs_depends_on_files_definition_and_code(tmp_path, monkeypatch):
    file = tmp_path / "file"
    missing = hash_inputs(["a"], [file])
    file.write_text("1")
    first = hash_inputs(["a"], [file])
    file.write_text("2")
    hashes = {missing, first, hash_inputs(["a"], [file]), hash_inputs(["b"], [file])}
    monkeypatch.setattr(table_cache, "_code_version", lambda: "other")
    assert len(hashes | {hash_inputs(["b"], [file])}) == 5


def test_cached_json_is_valid_for_its_inputs_only(tmp_path):
    path = tmp_path / "file.json"
    CachedJSON(path, "one").save({"row": [1.5, None, float("inf")]})
    assert CachedJSON(path, "one").load() == {"row": [1.5, None, float("inf")]}
    assert CachedJSON(path, "two").load() is None and CachedJSON(tmp_path / "missing.json", "one").load() is None
