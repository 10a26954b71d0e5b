"""Progress of the runs of a sweep: a table that is redrawn in a terminal, one line per change elsewhere."""

import shutil
import sys
import time
from typing import Any

from lumen.core.console import console
from lumen.core.progress import can_redraw, format_duration
from lumen.core.text import escape_line
from lumen.evaluation.keys import metric_keys
from lumen.sweeps.trial import Trial

NAME_WIDTH = 30  # characters of a trial's name in the table


class ProgressTable:
    """Display of the state of trials, renewed whenever `refresh` is called."""

    def __init__(self, trials: list[Trial]):
        self.trials, self.start = trials, time.monotonic()
        self.printed = {trial.run_dir: "waiting" for trial in trials}  # last printed state of each trial
        self.line_widths: list[int] = []  # of the table in the terminal
        self.next_redraw = 0.0

    def refresh(self) -> None:
        """Print what has changed; in a terminal at most once a second, because that reads the runs' files."""
        if console.is_quiet:
            return
        changed = [trial for trial in self.trials if trial.state != self.printed[trial.run_dir]]
        self.printed |= {trial.run_dir: trial.state for trial in changed}
        if not can_redraw(sys.stdout):
            for trial in changed:
                count = f"[{self._num_ended()}/{len(self.trials)}{self._time_left()}]"
                print(f"{count} {trial.name}: {_format_state(trial)}", flush=True)
        elif changed or time.monotonic() > self.next_redraw:
            self.next_redraw = time.monotonic() + 1
            self._redraw()

    def _redraw(self) -> None:
        """Draw a line per trial, or where the terminal has no room for all, only those that run or have failed."""
        from rich.cells import cell_len  # not at the top: only terminals need it

        width, height = shutil.get_terminal_size()
        rows = [trial for trial in self.trials if trial.state in ("running", "failed")]
        rows = self.trials if len(self.trials) < height - 3 else rows[: height - 4]
        names = [_cut(trial.name, NAME_WIDTH) for trial in rows]
        name_width = max(map(cell_len, names), default=0)
        padded = [name + " " * (name_width - cell_len(name)) for name in names]
        lines = [f"{name}  {_format_progress(trial)}" for name, trial in zip(padded, rows, strict=True)]
        lines.append(f"{self._num_ended()} of {len(self.trials)} ended{self._time_left()}")
        # A terminal that has become narrower has broken the lines that it showed.
        num_lines = sum(max(1, -(-line_width // width)) for line_width in self.line_widths)
        lines = [_cut(line, width - 1) for line in lines]
        print((f"\x1b[{num_lines}A" if num_lines else "") + "\x1b[J" + "\n".join(lines), flush=True)
        self.line_widths = [cell_len(line) for line in lines]

    def _num_ended(self) -> int:
        return sum(trial.state not in ("waiting", "running") for trial in self.trials)

    def _time_left(self) -> str:
        """Return the time left, if the other trials take as long as those that have ended."""
        ended = self._num_ended()
        if not 0 < ended < len(self.trials):
            return ""
        seconds = (time.monotonic() - self.start) / ended * (len(self.trials) - ended)
        return f", about {format_duration(seconds)} left"


def format_metrics(results: dict[str, Any]) -> list[str]:
    """Return the metric values of a run as words; the validation loss if it was not evaluated by metrics."""
    keys = [key for key in metric_keys(results, "test") if key.part is None and not key.interval]
    values = {key.column: results[str(key)] for key in keys} or {"val/loss": results.get("val/loss")}
    return [f"{name} {value:.3g}" for name, value in values.items() if value is not None]


def _cut(text: str, width: int) -> str:
    """Return the beginning of a text, which fills at most so many columns of a terminal."""
    from rich.cells import cell_len, set_cell_size

    text = escape_line(text)
    return set_cell_size(text, min(cell_len(text), width)).rstrip()


def _format_progress(trial: Trial) -> str:
    """Return the state of a trial; of a running one its step, loss and time left."""
    if trial.state != "running":
        return _format_state(trial)
    step, loss, seconds = trial.progress()
    steps, number = trial.lengths[trial.current_run].steps, [*trial.lengths].index(trial.current_run)
    link = f" {number + 1} of {len(trial.lengths)}" if len(trial.lengths) > 1 else ""
    if step >= steps:
        return f"running{link}  evaluating"
    parts = [f"running{link}", f"step {step}/{steps}" if step else "starting"]
    parts += [f"loss {loss:.4f}"] if loss is not None else []
    parts += [f"{format_duration(seconds)} of training left"] if seconds is not None else []
    return "  ".join(parts)


def _format_state(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed: {next(iter(trial.failures.values()))}"
    if trial.state == "done":
        return "  ".join(["done", *format_metrics(trial.results())])
    return {
        "running": f"running, log: {trial.log(trial.current_run)}",
        "busy": "skipped, another process is running it",
        "stopped": "stopped; repeat the command to resume it",
    }.get(trial.state, trial.state)
