"""Where figures go: metrics.jsonl in the run folder always, Weights & Biases beside it."""

import json
import netrc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from lumen.core.files import lines, write
from lumen.core.signals import STOPPED, Stopped

FINISH = 120.0  # seconds that the end of a run waits for W&B; what it has not taken then can be synced later


class Journal(Logger):
    """metrics.jsonl: one line per step and moment, flushed, each step once however often a run is continued."""

    def __init__(self, path: Path, step: int | None):
        """Lines from `step` on are dropped, for they will be written again; None leaves the file to another rank."""
        super().__init__()
        self.path, self.late = path, ""
        self.told: set[tuple] = set()  # steps and what was logged of them
        if step is not None and path.exists():
            kept = [line for line in lines(path) if line["step"] < step]
            write(path, "".join(json.dumps(line) + "\n" for line in kept))
            for line in kept:
                _new(self, line, line["step"])
        self.size = path.stat().st_size if path.exists() else 0

    name, version = "metrics", ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        figures = {key: value for key, value in metrics.items() if key != "epoch"}
        if figures and _new(self, figures, step):
            _or_say(self, "metrics.jsonl", lambda: self._append({"step": step, **figures}))

    def has(self, step: int, name: str) -> bool:
        """Whether a figure of a step has been logged."""
        return any(there == step and name in names for there, names in self.told)

    def _append(self, line: dict[str, float | int | None]) -> None:
        """Writes a line, and first those that a full disk had no room for."""
        self.late += json.dumps(line) + "\n"
        with open(self.path, "ab") as file:
            file.truncate(self.size)  # part of a line may have been written
            file.write(self.late.encode())
        self.size, self.late = self.path.stat().st_size, ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """config.yaml has them."""


class Tracker(WandbLogger):
    """Lightning's W&B logger, except that a failure to log is said once and training goes on."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.told: set[tuple] = set()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if _new(self, metrics, step):
            _or_say(self, "W&B", lambda: super(Tracker, self).log_metrics(metrics, step))

    @rank_zero_only
    def show(self, picture: Image.Image, step: int) -> None:
        shown = {"grid": wandb.Image(picture), "trainer/global_step": step}
        _or_say(self, "W&B", lambda: self.experiment.log(shown))


def _new(logger: Logger, figures: dict[str, float], step: int | None) -> bool:
    """Whether these figures of a step were not logged before: what is saved is logged first, and then once more."""
    key = (step, frozenset(figures) - {"step", "epoch"})
    seen = key in logger.told
    logger.told.add(key)
    return not seen


def _or_say(logger: Logger, name: str, log: Callable[[], None]) -> None:
    """Logs, or says once that it failed: whatever a logger trips over is no reason to lose a training run."""
    try:
        log()
    except Exception as error:
        if not getattr(logger, "complained", False):
            print(f"{name} takes no more figures ({error}); training goes on.")
        logger.complained = True


@rank_zero_only
def tracker(mode: str, folder: Path, config: dict[str, Any], identity: dict[str, Any], step: int = 0) -> Tracker | None:
    """The run's W&B logger, the same run again when the command is repeated; None where it is disabled.

    Offline, each time is a file of its own, under the same id: `wandb sync` appends them in the order in which they
    began. From the second on they say what they continue, as config.resumed_from.

    Args:
        mode: auto, online, offline or disabled; auto is online where there is a key and an answer.
        identity: project, id, name, group, job_type and tags.
        step: that the run goes on from.
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
    settings = wandb.Settings(init_timeout=30, finish_timeout=FINISH, console="off", silent=True)
    for attempt in ("online", "offline") if online else ("offline",):
        try:
            run = wandb.init(
                mode=attempt, dir=folder, config=config, settings=settings, resume="allow", **identity
            )  # allowed offline too, or what is synced later would begin anew at W&B's step 0
            break
        except wandb.errors.Error as error:
            then = "logged offline" if attempt == "online" else "logged in metrics.jsonl only"
            print(f"W&B does not answer ({str(error).partition(chr(10))[0]}); this run is {then}.")
            wandb.teardown()  # else the id is still in use
            if attempt == "offline":
                return None
    if run.offline:
        print(f"W&B is offline; `wandb sync {Path(run.dir).parent}` sends this run later.")
    return Tracker(experiment=run)


@contextmanager
def closing() -> Iterator[None]:
    """Ends the W&B run that was begun inside, with the command's exit code: an open one would be reused.

    W&B shows as preempted, and not as failed, what was told to stop; of a sweep of its own the next free agent
    goes on with it.
    """
    code = 1
    try:
        yield
        code = 0
    except Stopped:
        code = STOPPED
        if wandb.run is not None:
            wandb.run.mark_preempting()
        raise
    finally:
        if wandb.run is not None:
            wandb.finish(exit_code=code)


def has_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return False
    host = urlparse(os.environ.get("WANDB_BASE_URL", wandb.Settings().base_url)).netloc
    hosts = [host, "api.wandb.ai"] if host == "api.forge.coreweave.com" else [host]  # as older wandb wrote it down
    try:
        return bool(os.environ.get("WANDB_API_KEY") or any(map(netrc.netrc().authenticators, hosts)))
    except (OSError, netrc.NetrcParseError):
        return False
