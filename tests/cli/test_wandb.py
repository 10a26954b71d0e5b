"""W&B: an offline file of a run, decoded, holds charts over optimiser steps, and all else in the summary."""

import csv
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2 as pb

from lumen.__main__ import main

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7  # bytes of W&B's log format, which is that of LevelDB
FULL, FIRST, MIDDLE = 1, 2, 3  # kinds of chunks; the fourth ends a record


def read_records(path: Path) -> Iterator[pb.Record]:
    """Yield the records of an offline file."""
    content, position, data = path.read_bytes(), FILE_HEADER, b""
    while position + HEADER <= len(content):
        if (room := BLOCK - position % BLOCK) < HEADER:
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + HEADER])
        chunk = content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        data = chunk if kind in (FULL, FIRST) else data + chunk
        if kind not in (FIRST, MIDDLE):
            record = pb.Record()
            record.ParseFromString(data)
            yield record


def decode(run_dir: Path) -> SimpleNamespace:
    """Return what W&B would show of a run: name, group, tags, config, history and summary."""
    wandb.teardown()  # W&B's process writes the last records
    shown = SimpleNamespace(config={}, history=[], summary={}, axes=[], artifacts={})
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        for record in read_records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    shown.name, shown.group = record.run.display_name, record.run.run_group
                    shown.tags, shown.job = list(record.run.tags), record.run.job_type
                    shown.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
                case "history":
                    shown.history.append(to_tree(record.history.item))
                case "summary":
                    shown.summary |= to_tree(record.summary.update)
                case "artifact":
                    shown.artifacts[record.artifact.name] = [file.path for file in record.artifact.manifest.contents]
                case "metric":
                    shown.axes.append((record.metric.name or record.metric.glob_name, record.metric.step_metric))
    return shown


def to_tree(items: Iterable) -> dict[str, Any]:
    """Return the items of history or summary; the description of an image has a key of several parts."""
    tree: dict[str, Any] = {}
    for item in items:
        key, *parts = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if parts:
            tree.setdefault(key, {})[".".join(parts)] = value
        else:
            tree[key] = value
    return tree


@pytest.fixture(scope="module")
def dashboard(finished) -> SimpleNamespace:
    """What W&B shows of the finished run."""
    return decode(finished)


def test_wandb_charts_have_the_optimiser_step_as_axis(dashboard):
    assert ("*", "trainer/global_step") in dashboard.axes
    assert all("trainer/global_step" in line for line in dashboard.history)
    steps = [line["trainer/global_step"] for line in dashboard.history if "train/loss" in line]
    assert steps == [0, 1, 2, 3]
    pictures = [line["trainer/global_step"] for line in dashboard.history if "samples" in line]
    validations = [line["trainer/global_step"] for line in dashboard.history if "val/loss" in line]
    assert pictures == validations and set(pictures) == {1, 3}  # a further evaluation of the run validates again


def test_wandb_history_has_curves_alone(dashboard):
    counts = Counter(key for line in dashboard.history for key in line if not key.startswith("_"))
    assert {"train/loss", "train/lr", "train/grad_norm", "val/loss", "val/response", "samples"} <= counts.keys()
    assert all(count > 1 for count in counts.values()), counts
    assert not any(key.startswith(("test/", "real/", "vae/", "text/", "shuffled/")) for key in counts)


def test_wandb_summary_holds_metrics_with_intervals_and_facts(dashboard, finished):
    results, summary = json.loads((finished / "metrics.json").read_text()), dashboard.summary
    assert summary["test/miou"] == pytest.approx(results["test/miou"])
    assert [summary["test/miou.low"], summary["test/miou.high"]] == pytest.approx(results["test/miou_95"])
    assert summary["real/miou"] == pytest.approx(results["real/miou"]) and "layout/explained_variance" in summary
    assert summary["model/trainable_parameters"] > 1000


def test_wandb_images_are_lists_with_captions(dashboard):
    line = next(line for line in dashboard.history if "samples" in line)
    for key in ("image", "layout", "samples"):
        assert line[key]["_type"] == "images/separated" and all(line[key]["captions"])


def test_wandb_has_a_table_of_samples_with_every_score(dashboard, finished):
    def read_table(name: str) -> dict[str, Any]:
        file = dashboard.summary[f"tables/{name}"]
        assert file["_type"] == "table-file"
        return json.loads((finished / "wandb" / "latest-run" / "files" / file["path"]).read_text())

    samples, metrics = read_table("samples"), read_table("metrics")
    assert samples["columns"][:5] == ["id", "image", "layout", "sample", "caption"]
    assert {"miou", "si_depth", "lpips-scenes", "tifa"} <= set(samples["columns"]) and len(samples["data"]) == 3
    assert all(isinstance(row[-1], float) and row[4] for row in samples["data"])
    assert metrics["columns"] == ["metric", "value", "low", "high", "real", "vae", "text", "shuffled"]
    # The pictures of a table lie in an artifact of its own.
    (files,) = [files for name, files in dashboard.artifacts.items() if "samples" in name]
    assert sum(file.endswith(".png") for file in files) == 9


def test_wandb_config_is_that_of_the_components_in_use(dashboard, finished):
    assert dashboard.config["steering"] == dashboard.config["backbone"]["name"] == "dino"
    assert not {"flags", "defaults"} & dashboard.config.keys()
    assert dashboard.group == f"scenes/{finished.parent.name}" and "backbone:dino" in dashboard.tags
    assert dashboard.name.startswith("scenes dino ") and dashboard.name.endswith(" seed0")


def test_wandb_run_without_a_backbone_records_none(tiny, workdir, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "mine")
    monkeypatch.setenv("WANDB_RUN_GROUP", "ours")
    small = [option for option in tiny if not option.startswith("conditioning")]
    options = ["conditioning=canny", "steps=2", "wandb=offline", "wandb.tags=[paper]", "wandb.notes=a note"]
    options += ["logger=[wandb,csv]", "wandb.artifacts=true"]
    assert main(["train", "scenes", *small, *options]) == 0
    (run,) = workdir.glob("runs/scenes/*/seed0")
    assert "wandb" not in run.parent.name and "logger" not in run.parent.name
    shown = decode(run)
    assert shown.config["steering"] == "canny" and "backbone" not in shown.config
    assert set(shown.tags) == {"data:scenes", "conditioning:canny", "paper", "mine"} and shown.group == "ours"
    files = shown.artifacts[f"run-{(run / 'id').read_text()}"]
    assert {"config.yaml", "metrics.json", "step00000002.ckpt"} <= set(files)
    with open(run / "csv" / "metrics.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines if line["train/loss"]] == ["0", "1"]
    assert [line["step"] for line in lines if line["val/loss"]] == ["1"]


@pytest.mark.long
def test_wandb_history_of_thirty_steps_has_no_key_with_one_point(tiny, workdir):
    options = ["steps=30", "every.validate=15", "every.log=5", "wandb=offline"]
    assert main(["train", "scenes", *tiny, *options]) == 0
    shown = decode(next(workdir.glob("runs/scenes/*/seed0")))
    counts = Counter(key for line in shown.history for key in line if not key.startswith("_"))
    assert {"train/loss", "train/lr", "train/grad_norm", "val/loss", "val/response", "samples"} <= counts.keys()
    assert min(counts.values()) == 2 and counts["val/loss"] == 2, counts
    steps = [line["trainer/global_step"] for line in shown.history if "train/loss" in line]
    assert steps == [4, 9, 14, 19, 24, 29]
    assert {line["trainer/global_step"] for line in shown.history if "val/loss" in line or "layout" in line} == {14, 29}


@pytest.mark.long
def test_wandb_sweep_groups_its_runs_by_row(tiny, workdir, forking, capsys):
    options = ["base=scenes", "rows=CLIP,DINO", "seeds=2", "steps=1", "every.validate=1", "wandb=offline"]
    assert main(["ablate", "table1", *tiny, *options]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    runs = [decode(run) for run in sorted(workdir.glob("runs/scenes/*/seed*"))]
    groups = {shown.group: shown.config["steering"] for shown in runs}
    assert len(runs) == 4 and sorted(groups.values()) == ["clip", "dino"]
    assert sorted(Counter(shown.group for shown in runs).values()) == [2, 2]
    for shown in runs:
        assert shown.config["steering"] == groups[shown.group] and shown.job == "train"
        assert {"table1", {"clip": "CLIP", "dino": "DINO"}[groups[shown.group]]} <= set(shown.tags)
    sweep = decode(workdir / "runs" / "tables")
    assert sweep.job == "sweep" and sweep.summary["table"]["_type"] == "table-file" and "table1" in sweep.tags
    logs = sorted(workdir.glob("runs/**/wandb/offline-run-*"))
    assert last.count("wandb sync") == 1 and all(str(log.relative_to(workdir)) in last for log in logs)
    assert len(logs) == 5


def test_backbone_that_nothing_uses_is_refused(workdir, capsys):
    assert main(["train", "scenes", "backbone=clip", "conditioning=canny"]) == 2
    message = capsys.readouterr().err
    assert "backbone=clip" in message and "canny" in message and not list(workdir.iterdir())
