"""Benchmarks: small rows equal their peers with fewer operations, and the page has the stored results."""

import sys

import pytest

from benchmarks import _script, _table, _turns, real, rearrange
from benchmarks._rows import compare, load_rows, profile
from benchmarks._script import seconds_per_step
from lumen.core.errors import Mistake
from lumen.generators.controlnet import ControlNet

ROWS = load_rows()

# Checks the files and arguments of diffusers' train_controlnet.py, and logs its steps.
SCRIPT = """
import json, os, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model, images = arguments["--pretrained_model_name_or_path"], arguments["--train_data_dir"]
if arguments["--resolution"] != "16":
    sys.exit(f"{arguments['--resolution']} px are too many")
for part in ("vae", "unet", "text_encoder"):
    assert json.load(open(f"{model}/{part}/config.json"))
assert os.path.exists(f"{model}/tokenizer/tokenizer_config.json")
assert os.path.exists(f"{model}/scheduler/scheduler_config.json")
assert json.load(open(f"{arguments['--controlnet_model_name_or_path']}/config.json"))["conditioning_channels"] == 3
lines = [json.loads(line) for line in open(f"{images}/train/metadata.jsonl")]
assert len(lines) == 2 * int(arguments["--train_batch_size"]) and all(line["text"] for line in lines)
assert all(os.path.exists(f"{images}/train/{line[kind]}") for line in lines for kind in line if "file_name" in kind)
open(os.environ["STEP_LOG"], "a").write("step\\n" * int(arguments["--max_train_steps"]))
"""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "sweep" else ()) for name in ROWS]
)
def test_benchmark_row_equals_its_peer_with_fewer_operations(name):
    row = ROWS[name]
    comparison = compare(row, row.inputs(small=True))
    assert comparison["passed"], comparison
    assert row.TARGET_SPEEDUP > 0 and row.ROUNDS > 0 and row.PEER and row.__doc__


@pytest.fixture(scope="module")
def setting() -> real.Setting:
    return real.Setting(small=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in ("train_dinov2", "train_sd", "sample") else ())
        for name in real.ROWS
    ],
)
def test_benchmark_row_at_real_widths_equals_its_peer_with_fewer_operations(name, setting):
    """Tiny networks save another share of the operations than wide ones, so that only its sign is compared."""
    result = _turns.measure(real.ROWS[name], setting, turns=1)
    assert result["relative_difference"] <= real.ROWS[name].tolerance, result
    assert result["flops"]["peer"] >= result["flops"]["ours"] > 0
    assert all(peak > 0 for peak in result["peak_bytes"].values())


def test_benchmark_table_of_the_page_has_the_stored_results():
    assert _table.extract_section(_table.PAGE.read_text()) == _table.format_section()


def test_benchmark_script_steps_are_timed(pipeline, tmp_path, monkeypatch):
    """The clock advances by 7 with each step."""
    log, generator = tmp_path / "log", ControlNet(base=pipeline, channels=3, hint="image")
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("STEP_LOG", str(log))
    monkeypatch.setattr(_script, "_child_cpu_seconds", lambda: 7 * log.read_text().count("step") if log.exists() else 0)
    assert seconds_per_step(tmp_path / "script.py", generator, 16, 2) == 7
    with pytest.raises(Mistake, match="32 px are too many"):
        seconds_per_step(tmp_path / "script.py", generator, 32, 2)


def test_benchmark_profile_names_the_slowest_function():
    def compute(count: int) -> int:
        return sorted(range(count, 0, -1))[0] + sum(n**99 % 7 for n in range(count))

    shares = profile(compute, (50_000,))
    assert next(iter(shares)) == "test_benchmarks.<genexpr>" and 0.5 < sum(shares.values()) <= 1


@pytest.mark.long
def test_benchmark_of_the_rearranger_has_fewer_operations_from_a_filled_bank_than_a_controlnet():
    flags = ["size=32", "diffusion.weights=none", "sampling.steps=8", "task.clusters=4", "task.width=16"]
    ours, peer, sample = (gflop for _, gflop in rearrange.compare(flags).values())
    assert 0 < ours < peer / 2 and sample > 0
