"""Evaluation of a trained run: validation, preview, metrics, metrics.json."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer

from lumen.config.identity import is_evaluation_key
from lumen.config.schema import DEFAULT_TASK, EVALUATION_KEYS, LATER_KEYS, Config
from lumen.core.errors import BadConfig, BadPlugin
from lumen.core.files import remove_drafts, write_json
from lumen.core.interfaces import Metric, Task, trainable_parameters
from lumen.core.signals import handle_signals
from lumen.data.loader import explain_lost_worker
from lumen.evaluation.evaluate import Protocol, evaluate_rows, partial_scores_directory
from lumen.evaluation.prediction_files import PredictionFiles
from lumen.evaluation.saved_samples import SampleFolders
from lumen.evaluation.summary import format_summary
from lumen.runs import directory as run_dirs
from lumen.runs.build import build_metrics, build_task
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.processes import hold_directory, is_rank_zero
from lumen.runs.provenance import provenance
from lumen.runs.trainer import build_trainer
from lumen.training import checkpoint_io
from lumen.training.callbacks import SampleGrid
from lumen.training.lightning_internals import logged_step, set_global_step
from lumen.training.loggers import verify_loggers
from lumen.training.wandb_logger import ResilientWandbLogger, SampleTable, finish_wandb


def evaluate(run: Path, config: Config) -> dict[str, Any]:
    """Evaluate a trained run again under changed settings, into a directory within the run's.

    Raises:
        BadConfig: A setting was decided by the training.
    """
    if fixed := [key for key in config.flags if not is_evaluation_key(key)]:
        raise BadConfig(
            f"{fixed[0]} was decided when {run} was trained; lumen eval changes {', '.join(EVALUATION_KEYS)}, "
            "lumen train makes another run."
        )
    verify_loggers(config.logger)
    checkpoint = select_checkpoint(run, config)
    directory = run_dirs.eval_directory(run, config)
    with (
        handle_signals(config.stop_after) as handler,
        hold_directory(directory, config),
        finish_wandb(),
    ):
        handler.saved = lambda: "the scored batches" * any(partial_scores_directory(directory).glob("*/*"))
        data = verify_splits(build_data(config), config)
        task = build_task(config, data)
        metrics = build_metrics(config, data, task)
        restore(task, checkpoint)
        if is_rank_zero(config):
            remove_drafts(directory)
            run_dirs.write_or_verify_config(directory, config)
        trainer = build_trainer(config, data, task, directory, checkpoint, handler, "eval")
        if trainer.is_global_zero:
            write_json(directory / "provenance.json", provenance("eval", str(run), config, facts_of(data, task)))
        with interruptible():
            set_global_step(trainer, checkpoint_io.step_of(checkpoint))
            return evaluate_task(trainer, data, task, metrics, config, directory)


def evaluate_task(
    trainer: Trainer,
    data: LightningDataModule,
    task: Task,
    metrics: dict[str, Metric],
    config: Config,
    directory: Path,
) -> dict[str, Any]:
    """Validate, write the last preview, score outputs, and write metrics.json, which marks a run as finished."""
    grid = next(callback for callback in trainer.callbacks if isinstance(callback, SampleGrid))
    step = logged_step(trainer)
    if grid.step != trainer.global_step:  # otherwise training has just ended with a validation
        trainer.validate(task, datamodule=data, verbose=False, weights_only=True)
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    if "val/loss" not in values:
        raise BadPlugin(f"the task {config.task['name']} logs no val/loss; log it in its validation_step.")
    values |= task.summary_metrics()
    protocol, shared = build_protocol(config, metrics), Path(config.runs) / "anchors"
    dashboard = next((logger for logger in trainer.loggers if isinstance(logger, ResilientWandbLogger)), None)
    evaluation = evaluate_rows(
        trainer, data, task, metrics, protocol, directory, shared,
        SampleFolders(run_dirs.trained_run(directory), shared, config.measure.save_samples),
        num_pictures=config.wandb.images if dashboard else 0,
        predictions=PredictionFiles(directory, data.source.box_classes) if config.measure.save_predictions else None,
    )  # fmt: skip
    result = {
        "steps": step,
        "sampling": asdict(config.sampling),
        "precision": trainer.precision,
        **values,
        **evaluation.values,
    }
    if trainer.is_global_zero:
        task.save(directory)
        trainer.logger.flush()  # the history
        write_json(directory / "metrics.json", result)
        if dashboard:
            parameters = sum(p.numel() for p in trainable_parameters(task))
            samples = SampleTable(evaluation.pictures, evaluation.caption, evaluation.scores) if metrics else None
            dashboard.log_results(result | {"model/trainable_parameters": parameters}, samples)
            if config.wandb.artifacts:
                dashboard.log_files(f"run-{run_dirs.run_id(directory)}", run_dirs.result_files(directory))
        shutil.rmtree(partial_scores_directory(directory), ignore_errors=True)
        print(f"\n{format_summary(result, metrics, task.reference_rows)}\n")
        files = {"preview": directory / "grid.png", "metrics": directory / "metrics.json"}
        print("\n".join(f"{name}: {path}" for name, path in files.items() if path.exists()))
    return result


def build_protocol(config: Config, metrics: dict[str, Metric]) -> Protocol:
    """Return the settings of an evaluation by these metrics."""
    sampling = asdict(config.sampling)
    return Protocol(
        metrics={name: config.metrics.get(name, {}) for name in metrics},
        reference_rows=config.measure.anchors,
        images=config.measure.images,
        samples=config.measure.samples,
        sampling={key: value for key, value in sampling.items() if key != "images"},
        size=config.size,
        data=_scored_images(config.data),
        seed=config.seed,
        task=config.task["name"] if config.task["name"] != DEFAULT_TASK else None,
        unseen=_scored_images(config.task.get("unseen") or {}),
    )


def _scored_images(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a data set that decide which images and classes are scored.

    Mirroring is for training, and a directory may move.
    """
    return {
        key: value
        for key, value in arguments.items()
        if key not in ("root", "flip") and (f"data.{key}", value) not in LATER_KEYS.items()
    }


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C: Lightning turns it into an exit, after it has switched Ctrl-C off.

    Raises:
        Mistake: A process that reads images was lost. PyTorch says so wherever the run is.
    """
    try:
        yield
    except RuntimeError as error:
        if mistake := explain_lost_worker(error):
            raise mistake from None
        raise
    except SystemExit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def verify_splits(data: LightningDataModule, config: Config) -> LightningDataModule:
    """Index all splits, so that missing files are reported before weights are loaded.

    Raises:
        BadConfig: There are fewer images than processes, or too few for a reference row, or a stream has no list of
            them, which a setting needs.
    """
    source = data.source
    lists = {"cache=always": config.cache == "always", "task.images": config.task.get("images") is not None}
    if source.streaming and (key := next((key for key, is_set in lists.items() if is_set), None)):
        raise BadConfig(
            f"{key} needs a list of all images, which a stream lacks; leave out either that or data.streaming."
        )
    splits = ("val", source.eval_split) if source.streaming else ("train", "val", source.eval_split)
    images = {split: len(source.records(split)) for split in splits}
    ranks = config.devices * config.nodes
    for key, limit, split in (
        ("validation", config.validation, "val"),
        ("measure.images", config.measure.images, source.eval_split),
    ):
        if (count := min(limit, images[split])) < ranks:
            advice = f"raise {key}, or use fewer devices" if limit <= images[split] else "use fewer devices"
            raise BadConfig(
                f"{ranks} processes need {ranks} images of the {split} split or more, and there are {count}; {advice}."
            )
    anchors = config.measure.anchors
    if config.metrics and "shuffled" in anchors and images[source.eval_split] < min(config.measure.images, 2):
        others = ",".join(row for row in anchors if row != "shuffled")
        raise BadConfig(
            f"the {source.eval_split} split has one image, so there is no other one whose layout could be shown; leave "
            f"the row shuffled out with measure.anchors=[{others}]."
        )
    if config.metrics and "shuffled" in anchors and count < 2:
        raise BadConfig("measure.images=1 leaves no other image whose layout could be shown; raise it to 2 or more.")
    return data


def facts_of(data: LightningDataModule, task: Task) -> dict[str, str]:
    """Return the identity of data and frozen weights, for provenance."""
    return {"data": data.source.fingerprint(), "frozen": task.source}
