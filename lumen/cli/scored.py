"""Configs of evaluations whose samples are generated again, as they were scored."""

from pathlib import Path

from lumen.cli.command import Command, as_overrides
from lumen.config.experiment import reload
from lumen.config.schema import Config
from lumen.core.errors import BadConfig

# Keys that may differ from those of the evaluation: where the data are, and the hardware.
KEYS = ("data.root", "accelerator", "workers")


def verify_options(options: dict[str, str], caller: Command) -> None:
    """Verify that options change no score.

    Raises:
        BadConfig: One does.
    """
    if other := [key for key in options if key not in KEYS]:
        raise BadConfig(
            f"lumen {caller.verb} reads what was scored, so {other[0]} cannot change; it takes {', '.join(KEYS)}."
        )


def load_scored_config(run: Path, options: dict[str, str]) -> Config:
    """Return the config under which a run, or an evaluation of one, was scored."""
    from lumen.runs.directory import load_run_config

    saved = load_run_config(run)
    best = [f"best={saved['flags']['best']}"] if "best" in saved["flags"] and run.parent.name == "eval" else []
    return reload(saved, [*best, *as_overrides(options)])
