"""Certificate of exact resume: a run that is killed and resumed equals one that is not, bit by bit."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lumen.config.experiment import load
from lumen.core.console import LOG_NAME, announce
from lumen.core.errors import BadConfig, Mistake
from lumen.core.files import write_json
from lumen.core.guards import verify_place
from lumen.core.lifetime import signal_at_end_of_parent
from lumen.core.locks import lock_directory
from lumen.runs.directory import run_directory
from lumen.runs.provenance import provenance
from lumen.runs.state_hashes import StepRecorder, hash_run_state
from lumen.runs.train import train

SHORT_RUN = {"steps": "6", "sampling.steps": "2", "sampling.images": "1"}  # unless flags say otherwise


def certify_resume(experiment: str, flags: list[str]) -> bool:
    """Train with these flags twice, uninterrupted and killed three times, and print what is equal.

    The run is killed in the step after a checkpoint, while it validates, and in a step that no checkpoint follows.
    Checkpoints, validation and logging are set for that; nothing is evaluated or sent to W&B.

    Returns:
        Whether all is equal; certificate.json in runs/certify/... has the hashes.
    """
    given = SHORT_RUN | {key: value for key, _, value in (flag.partition("=") for flag in flags)}
    config = load(experiment, [f"{key}={value}" for key, value in given.items()])
    if config.steps < 6:
        raise BadConfig(f"steps={config.steps} leaves nothing between two checkpoints; lumen certify needs 6 or more.")
    every = config.steps // 3
    kills = [f"step:{every}", f"validation:{2 * every}", f"step:{2 * every + 1}"]
    directory = Path(config.runs) / "certify" / run_directory(config).relative_to(config.runs)
    hashes = {}
    with lock_directory(directory):
        for name, moments in (("whole", [""]), ("continued", [*kills, ""])):
            arguments = _flags(given, every, directory / name)
            shutil.rmtree(directory / name, ignore_errors=True)
            run = run_directory(load(experiment, arguments))
            for moment in moments:
                announce(f"{name}: {f'killed at {moment}' if moment else 'to the end'}")
                _launch(directory / name / LOG_NAME, [str(run), moment, experiment, *arguments])
            hashes[name] = hash_run_state(run)
        facts = provenance("certify", config.experiment, config, {})
        return _write_certificate(directory, hashes, facts | {"killed at": kills})


def _flags(given: dict[str, str], every: int, runs: Path) -> list[str]:
    """Return the flags of both runs: those given, except for intervals and for what follows training."""
    flags = {key: value for key, value in given.items() if key != "stop_after" and not key.startswith("metrics")}
    flags |= {f"every.{event}": every for event in ("validate", "checkpoint")} | {"every.log": 1}
    return [f"{key}={value}" for key, value in (flags | {"metrics": "[]", "wandb": "disabled", "runs": runs}).items()]


def _write_certificate(directory: Path, hashes: dict[str, dict[str, str]], facts: dict) -> bool:
    """Print and write what is equal; runs that differ stay on disk for inspection."""
    whole, resumed = hashes["whole"], hashes["continued"]
    parts = {name: whole[name] == resumed.get(name) for name in whole}
    for name, is_equal in parts.items():
        print(f"{'equal' if is_equal else 'DIFFERENT':10s} {name:10s} {whole[name]} {resumed.get(name)}")
    all_equal = all(parts.values())
    write_json(directory / "certificate.json", facts | {"equal": all_equal, "parts": parts, "hashes": hashes})
    if all_equal:
        for name in hashes:
            shutil.rmtree(directory / name)
    print(f"{'the same' if all_equal else 'NOT the same'}, bit by bit: {directory / 'certificate.json'}")
    return all_equal


def _launch(log: Path, arguments: list[str]) -> None:
    """Run one training in a process of its own, and end all processes that it has started.

    Raises:
        Mistake: It ended neither well nor by the signal that was to kill it.
        RunMissing: The directory of the certificate was moved or removed.
    """
    verify_place(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "lumen.runs.certify", *arguments]
        # A folder of the user's that is called experiments would be imported instead of LUMEN's.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            preexec_fn=signal_at_end_of_parent(signal.SIGKILL),
        )
        try:
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code != (-signal.SIGKILL if arguments[1] else 0):
        verify_place(log)
        last_line = " ".join(log.read_text(encoding="utf-8").strip().splitlines()[-1:])
        raise Mistake(f"a training ended with code {code} ({last_line}); see {log}.")


if __name__ == "__main__":
    where, moment, experiment, *flags = sys.argv[1:]
    try:
        train(load(experiment, flags), [StepRecorder(Path(where), moment)])
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
