"""Processes of a run: one where one is asked for, whatever the scheduler's variables say."""

import pytest
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, RunBusy
from lumen.runs.processes import cluster_environments, hold_directory, is_rank_zero

JOB = {"SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "lumen", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
TASK = JOB | {"SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"}
SCRIPT = {"ENVIRONMENT": "BATCH"}
STEP = {"SLURM_STEP_ID": "0"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "x"}


@pytest.fixture
def environment(monkeypatch):
    """A function that sets the variables of a scheduler, in place of those there are."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "ENVIRONMENT", *TASK, *STEP, *ELASTIC):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(
    ("variables", "devices", "kinds", "is_first"),
    [
        ({}, 1, [], True),
        ({}, 2, [], True),
        (JOB, 1, [LightningEnvironment], True),  # typed within salloc -n 2
        (JOB, 2, [LightningEnvironment], True),
        (TASK, 1, [LightningEnvironment], True),  # srun -n 2: two runs
        (TASK | STEP | SCRIPT, 1, [LightningEnvironment], True),
        (TASK, 2, [SLURMEnvironment], False),  # srun -n 2: one run of two processes
        (TASK | STEP | SCRIPT, 2, [SLURMEnvironment], False),
        (TASK | SCRIPT | {"SLURM_PROCID": "0"}, 2, [LightningEnvironment], True),  # in a script of sbatch, without srun
        (TASK | {"SLURM_JOB_NAME": "interactive"}, 2, [], True),
        (TASK | {"SLURM_JOB_NAME": "bash"}, 1, [], True),
        ({"LOCAL_RANK": "1"}, 2, [], False),
        (TASK | STEP | ELASTIC | {"RANK": "0", "LOCAL_RANK": "0"}, 2, [], True),  # srun -n 2 torchrun, in any order
        (TASK | STEP | ELASTIC | {"SLURM_PROCID": "0", "RANK": "1", "LOCAL_RANK": "0"}, 2, [], False),
    ],
)
def test_processes_of_a_job(variables, devices, kinds, is_first, environment):
    environment(variables)
    config = load("scenes", [f"devices={devices}"])
    assert [type(found) for found in cluster_environments(config)] == kinds
    assert is_rank_zero(config) == is_first


def test_processes_of_a_run_of_one_are_its_first_ones(environment):
    environment(TASK)
    rank_zero_only.rank = 1  # as Lightning reads it from SLURM_PROCID when it is imported
    cluster_environments(load("scenes"))
    assert rank_zero_only.rank == 0


@pytest.mark.parametrize("missing", [{"SLURM_NTASKS_PER_NODE": "3"}, {"SLURM_NNODES": "2"}])
def test_processes_that_are_too_many_are_refused(missing, environment):
    environment(TASK | missing)
    with pytest.raises(BadConfig, match="srun has started other processes: .* Change devices"):
        cluster_environments(load("scenes", ["devices=2"]))


def test_processes_without_a_number_per_node_are_refused(environment):
    environment({name: value for name, value in TASK.items() if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(BadConfig, match="--ntasks-per-node"):
        cluster_environments(load("scenes", ["devices=2"]))


def test_directory_of_a_refused_run_is_removed_unless_it_has_begun(tmp_path):
    config, runs = load("scenes"), tmp_path / "runs"
    for files, stays in ((["config.yaml", "id"], False), (["config.yaml", "metrics.jsonl"], True), ([], False)):
        directory = runs / "scenes" / "-".join(["x", *files]) / "seed0"
        with pytest.raises(BadConfig), hold_directory(directory, config):
            for name in files:
                (directory / name).touch()
            raise BadConfig("no")
        assert directory.exists() == stays
    with pytest.raises(BadConfig), hold_directory(directory, config):
        raise BadConfig("no")
    assert tmp_path.exists() and not directory.parent.exists()


def test_directory_that_was_there_before_a_refusal_stays(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(RunBusy), hold_directory(tmp_path, load("scenes")):
        (tmp_path / "id").touch()
        raise RunBusy("no")
    assert (tmp_path / "config.yaml").exists()
