"""Processes of a run: the first, which holds its directory, and who starts the others: Lightning, torchrun or srun."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from lumen.config.schema import Config
from lumen.core.console import LOG_NAME, console
from lumen.core.errors import BadConfig, Mistake
from lumen.core.guards import guard_directory
from lumen.core.locks import lock_directory

# Files of a run that has not begun to train.
START_FILES = {".lock", "config.yaml", "id", "provenance.json", "wandb", LOG_NAME}


def is_rank_zero(config: Config) -> bool:
    """Return whether this is the first process of the run; known before the processes are connected."""
    names = ["RANK", "LOCAL_RANK", "NODE_RANK", *(["SLURM_PROCID"] if _is_started_by_srun(config) else [])]
    return all(int(os.environ.get(name, 0)) == 0 for name in names)


def cluster_environments(config: Config) -> list[ClusterEnvironment]:
    """Return Lightning's environment of the run's processes; none where Lightning finds the right one itself.

    Lightning takes every process within a job of SLURM for one that srun has started.

    Raises:
        BadConfig: srun has started other processes than the config asks for.
    """
    if TorchElasticEnvironment.detect():
        return []
    if _is_started_by_srun(config):
        return [_slurm_environment(config)]
    environment = LightningEnvironment()
    if config.devices * config.nodes == 1:
        environment.set_global_rank(0)  # whatever number SLURM gave the process
    return [environment] if SLURMEnvironment.detect() else []


@contextmanager
def hold_directory(directory: Path, config: Config) -> Iterator[None]:
    """Hold the directory of a run or evaluation: alone on rank 0, which starts the other ranks of its node.

    From then on what rank 0 prints is also appended to the directory's log.

    Raises:
        RunBusy: Another process holds the directory.
    """
    if is_rank_zero(config):
        with lock_directory(directory), _discard_if_refused(directory):
            console.open_log(directory)
            yield
    else:
        with guard_directory(directory):
            yield


def verify_torchrun(config: Config) -> None:
    """Compare the processes that torchrun has started with the config.

    Raises:
        BadConfig: The numbers differ. Each process would be a run of its own in the same directory. Of SLURM's
            processes Lightning verifies the number.
    """
    if not TorchElasticEnvironment.detect():
        return
    local, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if (local, total) != (config.devices, config.devices * config.nodes):
        raise BadConfig(
            f"torchrun has started {local} processes on this node and {total} in all, which is not "
            f"devices={config.devices} nodes={config.nodes}; write devices={local} nodes={total // local}."
        )


def _slurm_environment(config: Config) -> SLURMEnvironment:
    try:
        # Lightning's requeueing would save from within a signal handler, in the middle of a step.
        environment = SLURMEnvironment(auto_requeue=False)
        environment.validate_settings(config.devices, config.nodes)  # Lightning would do so after it has made folders
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadConfig(
            f"srun has started other processes: {reason} Change devices, nodes or srun's options."
        ) from None
    return environment


def _is_started_by_srun(config: Config) -> bool:
    """Return whether srun has started the processes of a run of several.

    A run of one process is complete in itself, also as one of several that srun has started. Where srun starts one
    torchrun per node, torchrun numbers the processes, and its first need not be on srun's first node.
    """
    if TorchElasticEnvironment.detect():
        return False
    is_script = os.environ.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in os.environ  # of sbatch, no srun
    has_rank = "SLURM_PROCID" in os.environ and not is_script
    return config.devices * config.nodes > 1 and has_rank and SLURMEnvironment.detect()


@contextmanager
def _discard_if_refused(directory: Path) -> Iterator[None]:
    """Remove what was written to a new directory, if the command is refused before it trains or evaluates anything."""
    is_new = _names(directory) <= {".lock"}
    try:
        yield
    except Mistake:
        if is_new and (names := _names(directory)) <= START_FILES:
            for name in names - {".lock"}:
                path = directory / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()
