"""Synthetic training images of a run: those that another, finished run generates."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lumen.config.experiment import reload
from lumen.config.schema import DEFAULT_TASK, Config
from lumen.core.errors import BadConfig
from lumen.core.interfaces import Task
from lumen.core.paths import user_path
from lumen.data.datamodule import DataModule
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.directory import is_finished, load_run_config
from lumen.training.synthetic_images import SyntheticImages


def build_synthetic_images(
    config: Config, data: DataModule, build_task: Callable[[Config, DataModule], Task]
) -> SyntheticImages | None:
    """Return the images that `task.synthetic` generates for the training images of a run; None if it names no run.

    Raises:
        BadConfig: That run is not finished, generates no images, or was trained on another data set or image size.
    """
    arguments = config.task
    if not arguments["synthetic"]:
        return None
    run = user_path(arguments["synthetic"])
    trained = _load_trained(run, config)
    task = build_task(trained, data)
    if task.output_kind != "images":
        raise BadConfig(
            f"task.synthetic={run} predicts {task.output_kind}; name a run that generates images, as the task "
            f"{DEFAULT_TASK} does."
        )
    restore(task, select_checkpoint(run, trained))
    sampling = {key: value for key, value in asdict(trained.sampling).items() if key != "images"}
    domains = [data.source.require_domain(domain) for domain in arguments["domains"] or ()]
    return SyntheticImages(
        task, _prompts(data), domains, arguments["copies"], arguments["row"], sampling, seed=trained.seed
    )


def _load_trained(run: Path, config: Config) -> Config:
    """Return the config of a run that may generate training images for another.

    Raises:
        BadConfig: It is not finished, or was trained on another data set or image size.
    """
    trained = reload(load_run_config(run))
    if not is_finished(run):
        raise BadConfig(f"task.synthetic={run} is not finished; repeat its lumen train command first.")
    pairs = {"data": (trained.data["name"], config.data["name"]), "size": (trained.size, config.size)}
    for key, (before, now) in pairs.items():
        if before != now:
            raise BadConfig(f"task.synthetic={run} was trained with {key}={before}, and this run has {key}={now}.")
    trained.data = config.data  # the images of this run, wherever those of that one lay
    return trained


def _prompts(data: DataModule) -> Callable[[str, str | None], str]:
    """Return the function that gives the prompt of a training image by its id and a domain."""
    source = data.source
    records = {record.id: record for record in source.records("train")}

    def prompt(image_id: str, domain: str | None) -> str:
        record = records[image_id]
        if domain is not None:
            return source.caption_for(record, domain)
        return source.select_caption(record.captions or source.read(record)["captions"])

    return prompt
