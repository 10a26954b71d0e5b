"""Weights & Biases: the logger of a run, its presentation, and its end."""

import netrc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb
from jaxtyping import Float, UInt8
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lumen.core.console import announce
from lumen.core.errors import Diverged
from lumen.core.signals import SIGNAL_EXIT_CODE, SignalInterrupt
from lumen.core.visualize import to_uint8
from lumen.training.loggers import is_new, warn_once

FINISH_SECONDS = 120.0  # that the end of a run waits for W&B; what it has not uploaded then can be synced later
INIT_SECONDS = 30
STEP = "trainer/global_step"  # the x axis of every chart, named as Lightning names it
CURVES = ("train/", "val/")  # beginnings of keys that are charts; all else is known once and goes to the summary
MAX_NAME_LENGTH, MAX_TAG_LENGTH = 128, 64  # characters that W&B accepts


@dataclass(frozen=True)
class SampleTable:
    """Evaluated images for a table: their pictures and scores.

    Attributes:
        pictures: Pictures of some images by id: the image, its layout if it has one, its first sample.
        caption: Prompt of each image by id.
        scores: Values of each image by metric and id.
    """

    pictures: dict[str, UInt8[Tensor, "n 3 h w"]]
    caption: dict[str, str]
    scores: dict[str, dict[str, float]]

    def to_wandb(self) -> wandb.Table:
        """Return W&B's table, which its page sorts and filters: one row per image."""
        has_layout = any(len(pictures) > 2 for pictures in self.pictures.values())
        titles = ["image", *(["layout"] if has_layout else []), "sample"] if self.pictures else []
        table = wandb.Table(columns=["id", *titles, "caption", *self.scores])
        for name, caption in self.caption.items():
            pictures = self.pictures.get(name, [None] * len(titles))
            images = [None if x is None else wandb.Image(x.permute(1, 2, 0).numpy()) for x in pictures]
            table.add_data(name, *images, caption, *(values.get(name) for values in self.scores.values()))
        return table


class ResilientWandbLogger(WandbLogger):
    """Lightning's W&B logger, except that a failure is reported once and training continues.

    Every chart has the optimiser step as its x axis, also if a run resumes or logs at other intervals.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.logged_keys: set[tuple] = set()
        # Lightning defines the axis only for a run that it starts itself.
        warn_once(self, "W&B", self._define_step_axis)

    def _define_step_axis(self) -> None:
        self.experiment.define_metric(STEP)
        self.experiment.define_metric("*", step_metric=STEP, step_sync=True)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log the metrics that are curves, unless those of this step were logged before."""
        curves = {key: value for key, value in metrics.items() if key.startswith(CURVES)}
        if curves and is_new(self, curves, step):
            warn_once(self, "W&B", lambda: super(ResilientWandbLogger, self).log_metrics(curves, step))

    @rank_zero_only
    def log_preview(self, columns: dict[str, Float[Tensor, "b 3 _ _"]], captions: list[str], step: int) -> None:
        """Log columns of images in [-1, 1], each as a list with captions; "sample 1" and "sample 2" are one list."""
        warn_once(self, "W&B", lambda: self.experiment.log(_image_lists(columns, captions) | {STEP: step}))

    @rank_zero_only
    def log_results(self, values: dict[str, Any], samples: SampleTable | None) -> None:
        """Write what is known once to the run's summary: metric values with intervals, and the table of samples."""
        summary: dict[str, Any] = {}
        for key, value in values.items():
            if key.endswith("_95"):
                name = key.removesuffix("_95")
                summary |= {f"{name}.low": value[0], f"{name}.high": value[1]}
            elif isinstance(value, int | float):
                summary[key] = value

        def update() -> None:
            tables = {"tables/metrics": _metric_table(values)}
            tables |= {"tables/samples": samples.to_wandb()} if samples else {}
            self.experiment.summary.update(summary | tables)

        warn_once(self, "W&B", update)

    @rank_zero_only
    def alert(self, title: str, text: str, level: str = "INFO") -> None:
        """Send an alert, by e-mail or Slack, to those who have switched alerts on."""
        warn_once(self, "W&B", lambda: self.experiment.alert(title, text, level))

    @rank_zero_only
    def log_files(self, name: str, files: list[Path]) -> None:
        """Upload files of the run as an artifact of type model."""

        def upload() -> None:
            artifact = wandb.Artifact(name, type="model")
            for file in files:
                artifact.add_file(str(file))
            self.experiment.log_artifact(artifact)

        warn_once(self, "W&B", upload)


def _image_lists(columns: dict[str, Float[Tensor, "b 3 _ _"]], captions: list[str]) -> dict[str, list[wandb.Image]]:
    """Return columns of images as W&B's lists with captions."""
    lists: dict[str, list[wandb.Image]] = {}
    for title, images in columns.items():
        key = re.sub(r" \d+$", "s", title)
        lists.setdefault(key, [])
        lists[key] += [wandb.Image(to_uint8(x).numpy(), caption=c) for x, c in zip(images, captions, strict=True)]
    return lists


def _metric_table(values: dict[str, Any]) -> wandb.Table:
    """Return one row per metric: its value, its interval, and the values of the reference rows."""
    names = [key.partition("/")[2] for key in values if key.startswith("test/") and not key.endswith("_95")]
    references = list(dict.fromkeys(key.partition("/")[0] for key in values if key.partition("/")[2] in names))
    references = [row for row in references if row != "test"]
    table = wandb.Table(columns=["metric", "value", "low", "high", *references])
    for name in names:
        low, high = values.get(f"test/{name}_95", (None, None))
        table.add_data(name, values[f"test/{name}"], low, high, *(values.get(f"{row}/{name}") for row in references))
    return table


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
        identity: Arguments of `wandb.init` that name the run: project, id, name, group, tags and others. The
            environment's own group and tags are respected.
        step: Step that the run resumes from.
    """
    if mode == "auto" and os.environ.get("WANDB_MODE") in ("disabled", "dryrun"):
        mode = {"disabled": "disabled", "dryrun": "offline"}[os.environ["WANDB_MODE"]]
    if mode == "disabled":
        return None
    online = mode == "online" or (mode == "auto" and has_key())
    # An id from the environment belongs to a W&B sweep agent, which looks for its run under it.
    identity = identity | {
        "id": os.environ.get("WANDB_RUN_ID", identity["id"]),
        "name": identity["name"][:MAX_NAME_LENGTH],
        "group": identity["group"][:MAX_NAME_LENGTH],
        "tags": _unique_tags(identity["tags"]),
    }
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
        announce(f"W&B is offline; `wandb sync {Path(run.dir).parent}` sends this run later.")
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
    except Diverged as error:
        if wandb.run is not None:
            with suppress(Exception):  # the run ends with the error itself
                wandb.run.alert("run diverged", str(error), level="ERROR")
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


def _unique_tags(tags: list[str]) -> list[str]:
    """Return tags and those of the environment, each once."""
    tags = [*tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))]
    return list(dict.fromkeys(tag[:MAX_TAG_LENGTH] for tag in tags))
