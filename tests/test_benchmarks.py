"""Every row at a small size: the same results as its peer's, the operations saved; and the README's table."""

import pytest

from benchmarks import _script, _table
from benchmarks._rows import compared, profile, rows
from benchmarks._script import seconds_per_step
from lumen.core.errors import Mistake
from lumen.generators.controlnet import ControlledDiffusion

ROWS = rows()

# Looks for what train_controlnet.py of diffusers is told of, as that would, and notes its steps.
SCRIPT = """
import json, os, sys
told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
model, images = told["--pretrained_model_name_or_path"], told["--train_data_dir"]
if told["--resolution"] != "16":
    sys.exit(f"{told['--resolution']} px are too many")
for part in ("vae", "unet", "text_encoder"):
    assert json.load(open(f"{model}/{part}/config.json"))
assert os.path.exists(f"{model}/tokenizer/tokenizer_config.json")
assert os.path.exists(f"{model}/scheduler/scheduler_config.json")
assert json.load(open(f"{told['--controlnet_model_name_or_path']}/config.json"))["conditioning_channels"] == 3
lines = [json.loads(line) for line in open(f"{images}/train/metadata.jsonl")]
assert len(lines) == 2 * int(told["--train_batch_size"]) and all(line["text"] for line in lines)
assert all(os.path.exists(f"{images}/train/{line[kind]}") for line in lines for kind in line if "file_name" in kind)
open(os.environ["NOTES"], "a").write("a step\\n" * int(told["--max_train_steps"]))
"""


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_its_peers_results_with_fewer_operations(name):
    row = ROWS[name]
    found = compared(row, row.inputs(small=True))
    assert found["passed"], found
    assert row.TARGET > 0 and row.ROUNDS > 0 and row.PEER and row.__doc__


def test_the_readme_has_the_table_of_the_results():
    assert _table.inside(_table.README.read_text()) == _table.section()


def test_a_users_script_is_run_and_its_steps_are_timed(pipeline, tmp_path, monkeypatch):
    """By a clock that goes on by 7 with each."""
    notes, diffusion = tmp_path / "notes", ControlledDiffusion(pipeline, 3, "image")
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.setattr(_script, "_processor", lambda: 7 * notes.read_text().count("a step") if notes.exists() else 0)
    assert seconds_per_step(tmp_path / "script.py", diffusion, 16, 2) == 7
    with pytest.raises(Mistake, match="ended with 1: 32 px are too many"):
        seconds_per_step(tmp_path / "script.py", diffusion, 32, 2)


def test_a_profile_names_where_the_time_goes():
    def busy(count: int) -> int:
        return sorted(range(count, 0, -1))[0] + sum(n * n for n in range(count))

    found = profile(busy, (200_000,))
    assert next(iter(found)) == "test_benchmarks.<genexpr>" and 0.5 < sum(found.values()) <= 1
