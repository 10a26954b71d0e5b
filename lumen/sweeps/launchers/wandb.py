"""Weights & Biases: a sweep file, whose agents on any number of machines run the same commands."""

import shlex

import yaml

from lumen.core.files import write
from lumen.core.registry import launchers
from lumen.sweeps.table import Table
from lumen.sweeps.trial import Trial


@launchers.register
def wandb(*, table: Table, trials: list[Trial]) -> None:
    """Write the sweep file and print the next commands; each unfinished run is one value of the grid."""
    program, *words = shlex.split(table.command)
    project = table.config(table.rows[0], 0).project
    sweep = {
        "name": table.command,
        "project": project,
        "program": program,
        "method": "grid",
        # Not a key of the config: W&B would replace the value that the run reports by this one.
        "parameters": {"trial": {"values": [trial.name for trial in trials]}},
        # An agent adds trial=NAME as one word, without a shell. launcher=local then runs it, and passes signals on.
        "command": ["${env}", "${program}", *words, "${args_no_hyphens}"],
    }
    path = table.output_path(".sweep.yaml")
    write(path, yaml.safe_dump(sweep, sort_keys=False, width=10_000))
    for trial in trials:
        trial.state = "submitted"
    print(
        f"{len(trials)} runs are in {path}:\n"
        f"  wandb sweep {shlex.quote(str(path))}\n"
        f"  wandb agent --forward-signals {project}/ID\n"
        "The first command prints the ID. Run the second on every machine, once for each GPU, with "
        "CUDA_VISIBLE_DEVICES set, in a directory that all machines share so that `lumen table` finds every row."
    )
