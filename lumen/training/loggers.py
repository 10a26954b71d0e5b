"""Loggers: metrics.jsonl in the run directory always, Weights & Biases beside it."""

import json
import netrc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lumen.core.errors import Mistake
from lumen.core.files import flush, write
from lumen.core.guards import verify_place
from lumen.core.signals import SIGNAL_EXIT_CODE, SignalInterrupt
from lumen.training.history import read_history

FINISH_SECONDS = 120.0  # that the end of a run waits for W&B; what it has not uploaded then can be synced later
INIT_SECONDS = 30


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
                _is_new(self, line, line["step"])
        self.size = path.stat().st_size if path.exists() else 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line, unless these metrics of this step were logged before."""
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        if values and _is_new(self, values, step):
            _warn_once(self, "metrics.jsonl", lambda: self._append({"step": step, **values}))

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


class ResilientWandbLogger(WandbLogger):
    """Lightning's W&B logger, except that a failure is reported once and training continues."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.logged_keys: set[tuple] = set()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log metrics, unless these metrics of this step were logged before."""
        if _is_new(self, metrics, step):
            _warn_once(self, "W&B", lambda: super(ResilientWandbLogger, self).log_metrics(metrics, step))

    @rank_zero_only
    def log_grid(self, picture: Image.Image, step: int) -> None:
        """Log the sample grid."""
        items = {"grid": wandb.Image(picture), "trainer/global_step": step}
        _warn_once(self, "W&B", lambda: self.experiment.log(items))


def _is_new(logger: Logger, metrics: dict[str, float], step: int | None) -> bool:
    """Return whether these metrics of a step were not logged yet: those of a checkpoint are logged twice."""
    key = (step, frozenset(metrics) - {"step", "epoch"})
    is_new = key not in logger.logged_keys
    logger.logged_keys.add(key)
    return is_new


def _warn_once(logger: Logger, name: str, log: Callable[[], None]) -> None:
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
def build_wandb_logger(
    mode: str, directory: Path, config: dict[str, Any], identity: dict[str, Any], step: int = 0
) -> ResilientWandbLogger | None:
    """Return the run's W&B logger, the same W&B run whenever the command is repeated; None where it is disabled.

    Offline, each start has a file of its own under the same id: `wandb sync` appends them in the order in which they
    began. From the second on, config.resumed_from names what they continue.

    Args:
        mode: auto, online, offline or disabled; auto is online where there is a key and W&B answers.
        config: Resolved config of the run.
        identity: project, id, name, group, job_type and tags.
        step: Step that the run resumes from.
    """
    if mode == "auto" and os.environ.get("WANDB_MODE") in ("disabled", "dryrun"):
        mode = {"disabled": "disabled", "dryrun": "offline"}[os.environ["WANDB_MODE"]]
    if mode == "disabled":
        return None
    online = mode == "online" or (mode == "auto" and has_key())
    # An id from the environment belongs to a W&B sweep agent, which looks for its run under it.
    identity = identity | {"id": os.environ.get("WANDB_RUN_ID", identity["id"])}
    if step:
        config = config | {"resumed_from": {"id": identity["id"], "step": step}}
    settings = wandb.Settings(init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, console="off", silent=True)
    for attempt in ("online", "offline") if online else ("offline",):
        try:
            # resume is allowed offline too; otherwise what is synced later would begin again at W&B's step 0
            run = wandb.init(mode=attempt, dir=directory, config=config, settings=settings, resume="allow", **identity)
            break
        except wandb.errors.Error as error:
            target = "logged offline" if attempt == "online" else "logged in metrics.jsonl only"
            print(f"W&B does not answer ({str(error).partition(chr(10))[0]}); this run is {target}.")
            wandb.teardown()  # otherwise the id stays in use
            if attempt == "offline":
                return None
    if run.offline:
        print(f"W&B is offline; `wandb sync {Path(run.dir).parent}` sends this run later.")
    return ResilientWandbLogger(experiment=run)


@contextmanager
def finish_wandb() -> Iterator[None]:
    """End the W&B run that begins inside the context, with the command's exit code; an open run would be reused.

    W&B shows a run that was stopped by a signal as preempted, not as failed; a W&B sweep hands it to the next free
    agent.
    """
    code = 1
    try:
        yield
        code = 0
    except SignalInterrupt:
        code = SIGNAL_EXIT_CODE
        if wandb.run is not None:
            wandb.run.mark_preempting()
        raise
    finally:
        if wandb.run is not None:
            wandb.finish(exit_code=code)


def has_key() -> bool:
    """Return whether W&B could log in without a prompt."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return False
    host = urlparse(os.environ.get("WANDB_BASE_URL", wandb.Settings().base_url)).netloc
    hosts = [host, "api.wandb.ai"] if host == "api.forge.coreweave.com" else [host]  # as older wandb wrote it down
    try:
        return bool(os.environ.get("WANDB_API_KEY") or any(map(netrc.netrc().authenticators, hosts)))
    except (OSError, netrc.NetrcParseError):
        return False
