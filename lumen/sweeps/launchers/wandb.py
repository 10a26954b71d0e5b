"""Weights & Biases: writes a sweep whose agents, on any number of machines, run the same commands."""

import shlex

import yaml

from lumen.core.files import write
from lumen.core.registry import launchers
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial


@launchers.register
def wandb(*, table: Table, trials: list[Trial]) -> None:
    """Writes the file and says what to type; each run that is not finished is one value of the grid."""
    program, *words = shlex.split(table.command)
    project = table.config(table.rows[0], 0).project
    sweep = {
        "name": table.command,
        "project": project,
        "program": program,
        "method": "grid",
        # No key of a config: W&B would put its value over the one that a run reports of itself.
        "parameters": {"trial": {"values": [trial.name for trial in trials]}},
        # An agent adds trial=NAME, as one word and by no shell; launcher=local runs it, and hands signals on.
        "command": ["${env}", "${program}", *words, "${args_no_hyphens}"],
    }
    path = table.file.with_name(f"{table.file.name}.sweep.yaml")
    write(path, yaml.safe_dump(sweep, sort_keys=False, width=10_000))
    for trial in trials:
        trial.state = "sent"
    print(
        f"{len(trials)} runs are in {path}:\n"
        f"  wandb sweep {shlex.quote(str(path))}\n"
        f"  wandb agent --forward-signals {project}/ID\n"
        "The first prints the ID. The second goes on every machine that is to help, once for each GPU, which "
        "CUDA_VISIBLE_DEVICES names, in a folder that all of them share if `lumen table` is to see every row."
    )
