"""Is a run that was killed and continued the one that was not? Both are made by processes of their own and compared."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lumen.config import experiment as configs
from lumen.core import locks
from lumen.core.errors import BadConfig, Mistake
from lumen.core.files import write_json
from lumen.runs import directory as folder
from lumen.runs import provenance
from lumen.runs import train as run
from lumen.runs.state_hashes import Witness, evidence

SHORT = {"steps": "6", "sampling.steps": "2", "sampling.images": "1"}  # unless flags say otherwise


def certified(experiment: str, flags: list[str]) -> bool:
    """Trains with these flags twice, uninterrupted and killed three times, and says what is equal.

    The run is killed while the step after a checkpoint is taken, while it validates, and in a step that no checkpoint
    comes after. Checkpoints, validation and logging are set for that; nothing is measured or sent to W&B.

    Returns:
        whether all is equal; certificate.json in runs/certify/... has the hashes.
    """
    asked = SHORT | {key: value for key, _, value in (flag.partition("=") for flag in flags)}
    config = configs.load(experiment, [f"{key}={value}" for key, value in asked.items()])
    if config.steps < 6:
        raise BadConfig(f"steps={config.steps} leaves nothing between two checkpoints; lumen certify needs 6 or more.")
    every = config.steps // 3
    kills = [f"step:{every}", f"validation:{2 * every}", f"step:{2 * every + 1}"]
    place = Path(config.runs) / "certify" / folder.place_of(config).relative_to(config.runs)
    found = {}
    with locks.claim(place):
        for name, moments in (("whole", [""]), ("continued", [*kills, ""])):
            words = _words(asked, every, place / name)
            shutil.rmtree(place / name, ignore_errors=True)
            there = folder.place_of(configs.load(experiment, words))
            for moment in moments:
                print(f"{name}: {f'killed at {moment}' if moment else 'to the end'}", flush=True)
                _launch(place / name / "log.txt", [str(there), moment, experiment, *words])
            found[name] = evidence(there)
        facts = provenance.provenance("certify", config.experiment, config, {})
        return _certificate(place, found, facts | {"killed at": kills})


def _words(asked: dict[str, str], every: int, runs: Path) -> list[str]:
    """The flags of both runs: those asked for, but for when they save and what comes after training."""
    words = {key: value for key, value in asked.items() if key != "stop_after" and not key.startswith("metrics")}
    words |= {f"every.{what}": every for what in ("validate", "checkpoint")} | {"every.log": 1}
    return [f"{key}={value}" for key, value in (words | {"metrics": "[]", "wandb": "disabled", "runs": runs}).items()]


def _certificate(place: Path, found: dict[str, dict[str, str]], facts: dict) -> bool:
    """Says what is equal, and writes it down; runs that differ are left to be looked at."""
    whole, continued = found["whole"], found["continued"]
    same = {name: whole[name] == continued.get(name) for name in whole}
    for name, equal in same.items():
        print(f"{'equal' if equal else 'DIFFERENT':10s} {name:10s} {whole[name]} {continued.get(name)}")
    equal = all(same.values())
    write_json(place / "certificate.json", facts | {"equal": equal, "parts": same, "hashes": found})
    if equal:
        for name in found:
            shutil.rmtree(place / name)
    print(f"{'the same' if equal else 'NOT the same'}, bit by bit: {place / 'certificate.json'}")
    return equal


def _launch(log: Path, words: list[str]) -> None:
    """Runs one training, and ends all of its processes.

    Raises:
        Mistake: it ended neither well nor by the signal that it was to be killed by.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        command = [sys.executable, "-m", "lumen.runs.certify", *words]
        # A folder of the user's called experiments would be taken for LUMEN's.
        environment = os.environ | {"PYTHONSAFEPATH": "1"}
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code != (-signal.SIGKILL if words[1] else 0):
        last = log.read_text().strip().splitlines()[-1:]
        raise Mistake(f"a training ended with code {code} ({' '.join(last)}); {log} has what it said.")


if __name__ == "__main__":
    where, moment, experiment, *flags = sys.argv[1:]
    try:
        run.train(configs.load(experiment, flags), [Witness(Path(where), moment)])
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
