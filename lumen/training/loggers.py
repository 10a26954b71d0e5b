"""Loggers: metrics.jsonl in the run directory always, and those of Lightning that a config names."""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import loggers as lightning_loggers
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lumen.core.errors import Mistake
from lumen.core.files import flush, read_jsonl, write
from lumen.core.guards import verify_place
from lumen.training.history import read_history

# Lightning's loggers by name, with the arguments that make one of a run directory.
LIGHTNING_LOGGERS = {
    "tensorboard": ("TensorBoardLogger", lambda path: {"save_dir": path, "name": "", "version": "tensorboard"}),
    "csv": ("CSVLogger", lambda path: {"save_dir": path, "name": "", "version": "csv"}),
    "mlflow": ("MLFlowLogger", lambda path: {"save_dir": str(path / "mlflow"), "run_name": path.name}),
}
LIBRARIES = {"tensorboard": ("tensorboard", "tensorboardX"), "mlflow": ("mlflow",)}  # any of which a logger needs


class JSONLLogger(Logger):
    """Logger to metrics.jsonl: one line per step and event, each step once however often a run resumes.

    Args:
        path: The file.
        step: Lines from this step on are dropped, because they will be written again; None leaves the file to
            another rank.
        interval: Most steps between two lines of a complete history; what is missing before `step` is printed.
    """

    name, version = "metrics", ""

    def __init__(self, path: Path, step: int | None, interval: int | None = None):
        super().__init__()
        self.path, self.pending = path, ""
        self.logged_keys: set[tuple] = set()  # (step, names)
        if step is not None:
            earlier, damage = read_history(path, step, interval)
            if path.exists():
                write(path, "".join(json.dumps(line) + "\n" for line in earlier))
            if damage:
                print(damage, flush=True)
            for line in earlier:
                is_new(self, line, line["step"])
        self.size = path.stat().st_size if path.exists() else 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line, unless these metrics of this step were logged before."""
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        if values and is_new(self, values, step):
            warn_once(self, "metrics.jsonl", lambda: self._append({"step": step, **values}))

    def has(self, step: int, name: str) -> bool:
        """Return whether a metric of a step was logged."""
        return any(logged_step == step and name in names for logged_step, names in self.logged_keys)

    @rank_zero_only
    def flush(self) -> None:
        """Flush the history to disk, before a file is written that stands for the steps of it.

        Raises:
            Mistake: The file cannot be written, or has been removed.
        """
        try:
            self._write_pending()
            if self.size:
                flush(self.path)
                with suppress(OSError):  # some network file systems cannot flush a directory
                    flush(self.path.parent)
        except OSError as error:
            raise Mistake(
                f"{self.path} could not be written: {error.strerror or error}; nothing is saved of steps whose history "
                "is lost: put the file back and repeat the command, which resumes from the last checkpoint."
            ) from None

    def _append(self, line: dict[str, float | int | None]) -> None:
        self.pending += json.dumps(line) + "\n"
        self._write_pending()

    def _write_pending(self) -> None:
        """Write the last line, after those that a full disk had no room for."""
        if not self.pending:
            return
        verify_place(self.path)
        with open(self.path, "r+b" if self.size else "ab") as file:  # a new file would lack the earlier lines
            if file.seek(0, os.SEEK_END) < self.size:
                raise OSError("another program has shortened it")
            file.truncate(self.size)  # part of a line may have been written
            file.seek(self.size)
            file.write(self.pending.encode())
        self.size, self.pending = self.path.stat().st_size, ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: config.yaml has them."""


def is_new(logger: Logger, metrics: dict[str, float], step: int | None) -> bool:
    """Return whether these metrics of a step were not logged yet: those of a checkpoint are logged twice."""
    key = (step, frozenset(metrics) - {"step", "epoch"})
    is_new = key not in logger.logged_keys
    logger.logged_keys.add(key)
    return is_new


def warn_once(logger: Logger, name: str, log: Callable[[], None]) -> None:
    """Log, or print once that it failed: no failure of a logger is worth a training run.

    Raises:
        RunMissing: The run directory was moved or removed.
    """
    try:
        log()
    except Mistake:
        raise
    except Exception as error:
        if not getattr(logger, "has_warned", False):
            print(f"{name} takes no more metrics ({error}); training continues.")
        logger.has_warned = True


@rank_zero_only
def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Log a picture to one of Lightning's loggers, if it shows pictures."""
    pixels = np.asarray(picture)
    if isinstance(logger, lightning_loggers.TensorBoardLogger):
        warn_once(logger, "TensorBoard", lambda: logger.experiment.add_image(name, pixels, step, dataformats="HWC"))
    elif isinstance(logger, lightning_loggers.MLFlowLogger):
        warn_once(logger, "MLflow", lambda: logger.experiment.log_image(logger.run_id, pixels, key=name, step=step))


def verify_loggers(names: Iterable[str]) -> None:
    """Verify that the libraries of loggers are installed.

    Raises:
        Mistake: One is not.
    """
    for name in names:
        libraries = LIBRARIES.get(name, ())
        if libraries and not any(map(find_spec, libraries)):
            raise Mistake(
                f"logger={name} needs a library that is not installed; install it with pip install {name}, or leave "
                f"{name} out of logger."
            )


class ResilientLogger(Logger):
    """Base of Lightning's loggers by which each step is logged once, and a failure is reported once."""

    @property
    def logged_keys(self) -> set[tuple]:
        """Pairs (step, names) of what was logged."""
        return self.__dict__.setdefault("_logged_keys", set())

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log, unless these metrics of this step were logged before."""
        if is_new(self, metrics, step):
            warn_once(self, type(self).__name__, lambda: super(ResilientLogger, self).log_metrics(metrics, step))

    def save(self) -> None:
        """Write what was logged."""
        warn_once(self, type(self).__name__, lambda: super(ResilientLogger, self).save())


def build_lightning_logger(name: str, directory: Path) -> Logger:
    """Return one of Lightning's loggers, which writes to a run directory. A resumed run continues its CSV file."""
    kind, arguments = LIGHTNING_LOGGERS[name]
    if name == "csv":  # Lightning removes the file of an earlier start, and warns of it
        (directory / "csv" / "metrics.csv").unlink(missing_ok=True)
    logger = type(kind, (ResilientLogger, getattr(lightning_loggers, kind)), {})(**arguments(directory))
    if name == "csv":
        history = read_jsonl(directory / "metrics.jsonl")
        logger.experiment.metrics.extend(line for line in history if is_new(logger, line, line.get("step")))
    return logger
