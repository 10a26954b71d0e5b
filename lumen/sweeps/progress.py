"""How the runs of a sweep stand: redrawn in place in a terminal, one line per change elsewhere."""

import shutil
import sys
import time

from lumen.sweeps.trial import Trial


class Live:
    """Shows trials whenever `draw` is called."""

    def __init__(self, trials: list[Trial]):
        self.trials, self.start = trials, time.monotonic()
        self.shown = {trial.home: "waiting" for trial in trials}
        self.height = 0  # lines of the last drawing
        self.next = 0.0

    def draw(self) -> None:
        """Shows what has changed; in a terminal at most once a second, for that reads the runs' files."""
        changed = [trial for trial in self.trials if trial.state != self.shown[trial.home]]
        self.shown |= {trial.home: trial.state for trial in changed}
        if not sys.stdout.isatty():
            for trial in changed:
                print(f"[{self._ended()}/{len(self.trials)}{self._left()}] {trial.name}: {_said(trial)}", flush=True)
        elif changed or time.monotonic() > self.next:
            self.next = time.monotonic() + 1
            self._redraw()

    def _redraw(self) -> None:
        width, height = shutil.get_terminal_size()
        rows = [trial for trial in self.trials if trial.state in ("running", "failed")]
        rows = self.trials if len(self.trials) < height - 3 else rows[: height - 4]
        wide = max(len(trial.name[:30]) for trial in self.trials)
        lines = [f"{trial.name[:30]:{wide}s}  {_standing(trial)}" for trial in rows]
        lines.append(f"{self._ended()} of {len(self.trials)} ended{self._left()}")
        up = f"\x1b[{self.height}A" if self.height else ""
        print(f"{up}\x1b[J" + "\n".join(line[: width - 1] for line in lines), flush=True)
        self.height = len(lines)

    def _ended(self) -> int:
        return sum(trial.state not in ("waiting", "running") for trial in self.trials)

    def _left(self) -> str:
        """The time that is left if the other trials take as long as those that have ended."""
        ended = self._ended()
        if not 0 < ended < len(self.trials):
            return ""
        return f", about {_span((time.monotonic() - self.start) / ended * (len(self.trials) - ended))} left"


def _standing(trial: Trial) -> str:
    """One trial as it stands now."""
    if trial.state != "running":
        return _said(trial)
    step, loss, seconds = trial.progress()
    if step >= trial.steps:
        return "running  measuring"
    told = [f"step {step}/{trial.steps}"] if step else ["starting"]
    told += [f"loss {loss:.4f}"] if loss is not None else []
    return "  ".join(["running", *told, *([f"{_span(seconds)} of training left"] if seconds is not None else [])])


def _said(trial: Trial) -> str:
    if trial.state == "failed":
        return f"failed: {next(iter(trial.failures.values()))}"
    return {
        "done": "; ".join(filter(None, ["done", trial.spared])),
        "running": f"running, log: {trial.log}",
        "busy": "left out, another process is at it",
        "stopped": "stopped; the same command goes on with it",
    }.get(trial.state, trial.state)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
