"""Identity of a run: its name and digest stay as they were when keys are added."""

import json
from pathlib import Path

import pytest
import yaml

from lumen.config.experiment import dump, load
from lumen.config.identity import config_digest, differences, result_settings, run_name, sanitize
from lumen.config.schema import SLOTS

# Run directories that an earlier commit wrote, by its hash.
OLDER_RUNS = sorted(Path(__file__).parents[1].glob("runs/fixtures/*/**/config.yaml"))


@pytest.fixture
def tree() -> dict:
    """The config of a run."""
    return dump(load("scenes", ["backbone=dinov2", "lr=3e-4", "runs=elsewhere", "seed=3"]))


def without(tree: dict, *keys: str) -> dict:
    """Return a config tree as a release without some keys wrote it."""
    return {key: value for key, value in tree.items() if key not in keys}


COMPONENTS = [f"{slot}={name}" for slot, registry in SLOTS.items() for name in registry.names()]


@pytest.mark.parametrize("flag", COMPONENTS)
def test_identity_of_a_run_with_any_component_is_that_of_its_file(flag):
    """Otherwise the run could not be resumed."""
    slot, _, name = flag.partition("=")
    required = [f"{slot}.{key}=x" for key, argument in SLOTS[slot].arguments(name).items() if argument.required]
    tree = dump(load("scenes", [flag, *required]))
    assert differences(yaml.safe_load(yaml.safe_dump(tree)), tree) == {}


def test_identity_of_runs_of_earlier_commits_is_unchanged():
    assert OLDER_RUNS
    for path in OLDER_RUNS:
        tree = yaml.safe_load(path.read_text())
        records = [json.loads(file.read_text()) for file in path.parent.glob("checkpoints/*.json")]
        assert records and {record["config"] for record in records} == {config_digest(tree)}
        assert run_name(tree) == path.parents[1].name


def test_identity_without_keys_at_their_defaults(tree):
    older = without(tree, "task", "generator")
    assert config_digest(older) == config_digest(tree) and run_name(older) == run_name(tree)
    assert differences(older, tree) == differences(tree, older) == {}
    spelled = dump(load("scenes", ["backbone=dinov2", "lr=3e-4", "task=layout_to_image", "generator.name=controlnet"]))
    assert config_digest(spelled) == config_digest(tree)
    assert run_name(spelled) == run_name(tree) == "backbone=dinov2,lr=0.0003"


def test_identity_with_another_task(tree):
    changed = tree | {"task": {"name": "colours", "bins": 4}, "flags": {"task": "colours", "task.bins": 4}}
    assert config_digest(changed) != config_digest(tree) and run_name(changed) == "task=colours,task.bins=4"
    assert {key for key in result_settings(changed) if key.startswith("task")} == {"task.name", "task.bins"}


def test_identity_ignores_settings_that_change_no_result(tree):
    moved = tree | {"runs": "/other", "workers": 7, "seed": 4, "every": tree["every"] | {"log": 3}}
    assert config_digest(moved) == config_digest(tree) and differences(moved, tree) == {}
    assert config_digest(tree | {"lr": 1.0}) != config_digest(tree)


def test_identity_of_an_elastic_run_has_the_product_of_its_batch_split(tree):
    elastic = tree | {"elastic": True, "flags": tree["flags"] | {"batch": 16}}
    divided = elastic | {"batch": 4, "accumulate": 2, "devices": 2, "flags": elastic["flags"] | {"batch": 4}}
    assert config_digest(divided) == config_digest(elastic) and run_name(divided) == run_name(elastic)
    assert config_digest(elastic | {"batch": 8}) != config_digest(elastic)


def test_differences_count_missing_arguments_as_defaults(tree):
    older = tree | {"backbone": without(tree["backbone"], "layer"), "metrics": {"lpips": {}, **tree["metrics"]}}
    assert differences(older, tree) == {}
    changed = tree | {"backbone": tree["backbone"] | {"layer": 2}, "lr": 1.0}
    assert differences(older, changed) == {"backbone.layer": (-1, 2), "lr": (3e-4, 1.0)}
    assert differences(tree, tree | {"metrics": without(tree["metrics"], "lpips")})["metrics.lpips.trunk"][1] is None


@pytest.mark.parametrize("text", ["../x", ".hidden", "a/b", "a b", "x" * 300, "a\0b"])
def test_sanitize_makes_one_file_name(text):
    name = sanitize(text)
    assert 0 < len(name) <= 120 and not set(name) & set("/\0 ") and not name.startswith(".")
    assert name != sanitize(text + "!") and sanitize("lr=1,batch=2") == "lr=1,batch=2"
