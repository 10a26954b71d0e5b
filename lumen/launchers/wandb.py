"""Weights & Biases: writes a sweep whose agents, on any number of machines, run the same commands."""

import shlex

import yaml

from lumen.files import write
from lumen.registry import launchers
from lumen.table import Table
from lumen.trial import Trial

# The agent names its run in the environment, and that is the training's: what is measured anew is a run of its own.
ANEW = "env -u WANDB_RUN_ID -u WANDB_SWEEP_ID -u WANDB_SWEEP_PARAM_PATH"


@launchers.register
def wandb(*, table: Table, trials: list[Trial]) -> None:
    """Writes the file and says what to type; what is left of a run is one value of the grid."""
    config = table.config(table.rows[0], 0)
    sweep = {
        "name": table.command,
        "project": config.project,
        "program": "lumen",
        "method": "grid",
        # No key of a config: W&B would put its value over the one that a run reports of itself.
        "parameters": {"trial": {"values": [_words(trial) for trial in trials]}},
        # The agent gives trial=COMMAND as the one argument; the shell takes the command out of it.
        "command": ["${env}", "sh", "-c", 'eval "${0#trial=}"', "${args_no_hyphens}"],
    }
    path = table.file.with_name(f"{table.file.name}.sweep.yaml")
    write(path, yaml.safe_dump(sweep, sort_keys=False, width=10_000))
    for trial in trials:
        trial.state = "sent"
    print(
        f"{len(trials)} runs are in {path}:\n"
        f"  wandb sweep {shlex.quote(str(path))}\n"
        f"  wandb agent --forward-signals {config.project}/ID\n"
        "The first prints the ID. The second goes on every machine that is to help, in a folder that all of them "
        "share if `lumen table` is to see every row."
    )


def _words(trial: Trial) -> str:
    """What is left of a trial as one line for a shell, which the last command takes over: signals reach that."""
    *first, last = [c if place == trial.home else f"{ANEW} {c}" for place, c in trial.left().items()]
    return " && ".join([*first, f"exec {last}"])
