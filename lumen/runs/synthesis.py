"""Synthetic training images of a run: those that another, finished run generates."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from lumen.config.experiment import reload
from lumen.config.schema import Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch, Task
from lumen.core.paths import user_path
from lumen.core.random import keyed_uniform
from lumen.data.datamodule import DataModule
from lumen.data.loader import collate
from lumen.features.pretrained import building_on_meta
from lumen.runs.chain import FILTER_RUN, SYNTHETIC, join_kinds, verify_alike, verify_chain
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.directory import is_finished, load_run_config
from lumen.training.pixel_filter import PixelFilter
from lumen.training.synthetic_images import SyntheticImages

BuildTask = Callable[[Config, DataModule], Task]
FILTERED_KIND = "labels"  # kind of predictions that a filter judges labels by


def build_synthetic_images(config: Config, data: DataModule, build_task: BuildTask) -> SyntheticImages | None:
    """Return the images that `task.synthetic` generates for the training images of a run; None if it names no run.

    Raises:
        BadConfig: That run is not finished, generates no images, or was trained on another data set or image size.
        UnknownName: The data set has no captions for a domain.
    """
    arguments, source = config.task, data.source
    if not arguments["synthetic"]:
        _refuse_unused(arguments)
        return None
    trained = _load_config(SYNTHETIC, config)
    verify_chain(config, trained, source)
    task = _load_task(SYNTHETIC, config, trained, data, build_task)
    sampling = {key: value for key, value in asdict(trained.sampling).items() if key != "images"}
    prompts = {domain: read_prompts(data, domain) for domain in arguments["domains"] or [None]}
    return SyntheticImages(
        task, prompts, arguments["copies"], arguments["row"], sampling, component_arguments(trained), trained.seed,
        _choose_others(data), _build_filter(config, data, build_task),
    )  # fmt: skip


def component_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of the components of a run that may decide its images without being learnt."""
    return {slot: getattr(config, slot) for slot in ("task", "generator", "conditioning")}


def _build_filter(config: Config, data: DataModule, build_task: BuildTask) -> PixelFilter | None:
    """Return the filter of labels by a run that learnt from real images; None if the config names no tolerance.

    Raises:
        BadConfig: There is no such run, or it learnt from generated images.
    """
    tolerance, run = (config.task.get(key) for key in ("filter", "filter_run"))
    if tolerance is None and run is None:
        return None
    if tolerance is None or run is None:
        missing, present = (
            ("task.filter_run=RUN", "task.filter") if run is None else ("task.filter=1.25", "task.filter_run")
        )
        raise BadConfig(f"{present} needs {missing} beside it, a finished run of this task on real images; add it.")
    trained = _load_config(FILTER_RUN, config)
    verify_alike(FILTER_RUN, config, trained)
    segmenter = _load_task(FILTER_RUN, config, trained, data, build_task)
    if segmenter.output_kind != FILTERED_KIND:
        raise BadConfig(
            f"task.filter_run={run} predicts {join_kinds(segmenter.output_kind)}; name a run that predicts labels."
        )
    if trained.task.get("synthetic"):
        raise BadConfig(f"task.filter_run={run} learnt from generated images; name a run on real images alone.")
    return PixelFilter(_Logits(segmenter), len(data.source.classes), tolerance)


class _Logits(nn.Module):
    """Logits of a task."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, image):
        return self.task.logits(image)


def _refuse_unused(arguments: dict) -> None:
    """Raise BadConfig if arguments have no effect because there are no generated images."""
    unused = {"domains": None, "copies": 1, "share": 0.25, "row": "test", "filter": None, "filter_run": None}
    for key, default in unused.items():
        if arguments.get(key, default) != default:
            raise BadConfig(
                f"task.{key} has no effect without generated images; add task.synthetic=RUN, or leave it out."
            )


def _load_config(key: str, config: Config) -> Config:
    """Return the config of a finished run that a key names.

    Raises:
        BadConfig: It is not finished.
    """
    run = user_path(config.task[key.removeprefix("task.")])
    trained = reload(load_run_config(run))
    if not is_finished(run):
        raise BadConfig(f"{key}={run} is not finished; repeat its lumen train command first.")
    return trained


def _load_task(key: str, config: Config, trained: Config, data: DataModule, build_task: BuildTask) -> Task:
    """Return the task of a run that a key names, with what it has learnt."""
    run = user_path(config.task[key.removeprefix("task.")])
    trained = replace(trained, data=config.data)  # the images of this run, wherever those of that one lay
    task = build_task(trained, data)
    if not building_on_meta():
        restore(task, select_checkpoint(run, trained))
    return task.requires_grad_(False).eval()


def read_prompts(data: DataModule, domain: str | None) -> dict[str, str]:
    """Return the prompt of each training image by id: its own caption, or that in a domain."""
    source = data.source
    if domain is not None:
        return {record.id: source.caption_for(record, domain) for record in source.train_records()}
    return {
        record.id: source.select_caption(record.captions or source.read(record)["captions"])
        for record in source.train_records()
    }


def _choose_others(data: DataModule) -> Callable[[Sequence[str]], Batch]:
    """Return the function that gives for each image of a batch another training image, always the same one."""
    dataset = data.dataset("train")
    positions = {record.id: i for i, record in enumerate(dataset.records)}

    def others(ids: Sequence[str]) -> Batch:
        steps = (keyed_uniform([("other", image_id) for image_id in ids]) * (len(dataset) - 1)).long().tolist()
        indices = [(positions[i] + 1 + n) % len(dataset) for i, n in zip(ids, steps, strict=True)]
        return collate([dataset.read_view(index, 0) for index in indices])

    return others
