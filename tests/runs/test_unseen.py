"""Unseen data set of a task: a component within a component's slot, scored by domain, part of the protocol."""

import pytest
import torch

from lumen.cli.completion import complete
from lumen.cli.help import explain
from lumen.config.experiment import dump, load, reload
from lumen.config.identity import config_digest, is_evaluation_key, run_name
from lumen.core.bootstrap import percentile_interval
from lumen.core.errors import BadConfig
from lumen.core.interfaces import IGNORE, Batch
from lumen.core.registry import datamodules, metrics
from lumen.runs.build import build_metrics, build_task
from lumen.runs.data import build_data
from lumen.runs.evaluate import build_protocol

TASK = ["task=segmentation", "size=32", "measure.images=8", "data.skies=[clear,overcast]"]
UNSEEN = ["task.unseen=scenes", "task.unseen.skies=[night,fog]"]


@pytest.mark.parametrize(
    "flags",
    [UNSEEN, UNSEEN[::-1], ["task.unseen={name: scenes, skies: [night, fog]}"], ["task.unseen.name=scenes", UNSEEN[1]]],
)
def test_unseen_data_set_is_a_component_with_arguments(flags):
    config = load("scenes", [*flags, *TASK])
    assert config.task["unseen"] == {"name": "scenes", "skies": ["night", "fog"], "images": 4096, "edit": None}
    assert reload(dump(config)).task == config.task
    assert load("scenes", TASK).task["unseen"] is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*TASK, "task.unseen=scene"], "did you mean 'scenes'"),
        ([*TASK, UNSEEN[0], "task.unseen.skies=rain"], "task.unseen.skies of data set 'scenes' must be"),
        ([*TASK, UNSEEN[0], "task.unseen.sky=night"], "did you mean 'skies'"),
        ([*TASK, UNSEEN[1]], "task.unseen=NAME"),
        ([*TASK, "task.unseen=acdc"], "needs task.unseen.root="),
        (UNSEEN, "task 'layout_to_image' has no argument 'task.unseen'"),
    ],
)
def test_mistake_about_an_unseen_data_set_is_named(flags, words):
    with pytest.raises(BadConfig, match=words):
        load("scenes", flags)


def test_root_of_an_unseen_data_set_names_no_folder():
    trees = [
        dump(load("cityscapes", ["task=segmentation", "data.root=c", "task.unseen=acdc", f"task.unseen.root={root}"]))
        for root in ("a", "b")
    ]
    assert run_name(trees[0]) == run_name(trees[1]) == "task=segmentation,task.unseen=acdc"
    assert config_digest(trees[0]) == config_digest(trees[1])
    assert is_evaluation_key("task.unseen.skies") and not is_evaluation_key("task.share")


def test_help_and_completion_know_an_unseen_data_set():
    assert "night" in explain("task.unseen.skies") and "by domain" in " ".join(explain("task.unseen").split())
    words = [word.partition("\t")[0] for word in complete("lumen train scenes task.unseen=scenes task.unseen.s")]
    assert words == ["task.unseen.skies="]


def test_unseen_data_set_is_scored_by_domain_and_part_of_the_protocol():
    config = load("scenes", [*TASK, *UNSEEN])
    data = build_data(config)
    task = build_task(config, data)
    built = build_metrics(config, data, task)
    assert [*built] == ["miou", "miou-fog", "miou-night", "miou-mean"]
    rules = [
        build_protocol(config, built).rules(build_data(config), task, built, "32-true")["data"]["unseen"]
        for config in (config, load("scenes", [*TASK, *UNSEEN, "task.unseen.edit=sky"]))
    ]
    assert rules[0]["skies"] == ["night", "fog"] and rules[0]["images"] == 8 and rules[0]["fingerprint"]
    assert rules[0] != rules[1]


def test_metric_without_domains_mixes_no_data_sets(monkeypatch):
    config = load("scenes", [*TASK, *UNSEEN])
    monkeypatch.setattr(metrics, "needs", lambda name: {"classes"})
    data = build_data(config)
    with pytest.raises(BadConfig, match="miou has no values by domain"):
        build_metrics(config, data, build_task(config, data))


def test_unseen_data_set_of_other_classes_is_refused(tmp_path):
    datamodules.factory("ade20k").fake(tmp_path)
    config = load("scenes", [*TASK, "task.unseen=ade20k", f"task.unseen.root={tmp_path}"])
    with pytest.raises(BadConfig, match="unseen data set ade20k has 150 classes"):
        build_data(config)


def test_predicted_label_outside_of_the_classes_is_no_class():
    metric = metrics.build("miou", segmenter=None, classes=("a", "b"))
    mask = torch.tensor([[[0, 0], [1, IGNORE]]])
    batch = Batch(torch.zeros(1, 3, 2, 2), [""], ["x"], mask)
    rows = metric.per_image(batch, torch.tensor([[[[0, IGNORE], [1, 1]]]]))
    assert rows.tolist() == [[[1, 1], [2, 1]]] and metric.aggregate(rows) == pytest.approx(0.75)


def test_interval_of_a_domain_leaves_out_resamples_without_its_images():
    values = torch.arange(100.0)
    assert percentile_interval(torch.cat([values, torch.full((7,), torch.nan)])) == percentile_interval(values)
