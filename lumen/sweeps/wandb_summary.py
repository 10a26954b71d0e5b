"""Sweep's own run on Weights & Biases: its table, and an alert that it has ended."""

import csv
import io
import shlex
from pathlib import Path

from lumen.core.hashing import hash_json
from lumen.sweeps.reports.text import to_csv, to_markdown
from lumen.sweeps.results import Results
from lumen.sweeps.table import Table


def log_sweep(results: Results) -> None:
    """Log a sweep's table under one W&B run, and send an alert to those who have switched alerts on."""
    table = results.table
    options = table.config(table.rows[0], 0).wandb
    if options.mode == "disabled":
        return
    import wandb

    from lumen.training.wandb_logger import build_wandb_logger, finish_wandb

    head, *rows = csv.reader(io.StringIO(to_csv(results)))
    identity = {
        "project": table.config(table.rows[0], 0).project,
        "entity": options.entity,
        "id": hash_json(table.command)[:12],
        "name": f"{table.name} on {table.base}",
        "group": options.group or table.name,
        "job_type": "sweep",
        "tags": [table.name, *options.tags],
        "notes": table.title,
    }
    directory = table.output_path(".csv").parent
    directory.mkdir(parents=True, exist_ok=True)
    with finish_wandb():
        logger = build_wandb_logger(options.mode, directory, {"command": table.command}, identity)
        if logger is not None:
            logger.experiment.summary["table"] = wandb.Table(columns=head, data=rows)
            logger.alert(f"{table.name} has ended", to_markdown(results))


def unsynced_logs(table: Table) -> list[Path]:
    """Return the offline logs of a table's runs, and of the sweep, that were not sent to W&B."""
    commands = [table.commands(row, seed) for row in table.rows for seed in range(table.seeds)]
    directories = dict.fromkeys([*(path for paths in commands for path in paths), table.output_path(".csv").parent])
    logs = [file for path in directories for file in sorted(path.glob("wandb/offline-run-*/*.wandb"))]
    return [file.parent for file in logs if not file.with_suffix(".wandb.synced").exists()]


def sync_command(logs: list[Path]) -> str:
    """Return the command that sends offline logs to W&B."""
    return f"wandb sync {shlex.join(map(str, logs))}"
