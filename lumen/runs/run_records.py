"""Records of runs: facts of files that no longer change, and the index that saves reading them again."""

import hashlib
import json
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from lumen import __version__
from lumen.config.identity import RECORD_KEYS, flatten
from lumen.core.errors import Mistake
from lumen.core.files import write
from lumen.evaluation.keys import metric_keys
from lumen.runs.directory import load_provenance, load_results, load_run_config

FILES = ("config.yaml", "metrics.json", "provenance.json")
FORMAT = f"1 {__version__}"
Record = dict[str, Any]


def read_record(directory: Path) -> Record:
    """Return the settings of a run, its metrics if it has finished, its command, and the problem with its files.

    Nothing is raised for damaged files: the sentence about the first one is the problem.
    """
    record: Record = {"settings": {}, "metrics": None, "step": None, "command": "", "problem": None}
    try:
        tree = load_run_config(directory)
        settings = {key: value for key, value in flatten(tree).items() if not key.startswith(RECORD_KEYS)}
        record["settings"] = settings | {"metrics": list(tree["metrics"])}
        flags = [f"{key}={'null' if value is None else value}" for key, value in tree["flags"].items()]
        record["command"] = shlex.join(["lumen", "train", tree["experiment"], *flags])
        if (directory / "provenance.json").exists():
            record["command"] = load_provenance(directory)["command"]
        if (results := load_results(directory)) is not None:
            record |= {"metrics": _select_metrics(results), "step": results.get("steps")}
    except Mistake as mistake:
        record["problem"] = str(mistake)
    return record


def _select_metrics(results: dict[str, Any]) -> dict[str, float]:
    """Return the value of each metric as a whole, and the validation loss."""
    whole = [key for key in metric_keys(results, "test") if key.part is None and not key.interval]
    values = {key.metric: results[str(key)] for key in whole}
    return values | ({"val/loss": results["val/loss"]} if "val/loss" in results else {})


class RecordIndex:
    """Index of records, `index.jsonl` in the directory of all runs: one line per run.

    A record counts as long as none of its files has changed, by inode, size and times. A damaged index is made anew.
    Several processes may write it: each replaces the file as a whole, and what another one has added is read again.

    Args:
        root: Directory of all runs.
    """

    def __init__(self, root: Path):
        self.path = root / "index.jsonl"
        self._entries = self._load()
        self._used: dict[str, Any] = {}
        self._is_complete = True

    def read(self, name: str, directory: Path) -> Record:
        """Return the record of a run, from its files if they have changed."""
        signature = [_sign(directory / file) for file in FILES]  # before they are read: they may change meanwhile
        entry = self._entries.get(name)
        if entry is None or entry["files"] != signature:
            entry = {"files": signature, "record": read_record(directory)}
            self._is_complete = False
        if entry["record"]["problem"] is None:  # the cause of a problem may lie outside of the file
            self._used[name] = entry
        return entry["record"]

    def save(self) -> None:
        """Write the index if a record was read from files, or a run has gone; without an index listing takes longer."""
        if self._is_complete and self._used.keys() == self._entries.keys():
            return
        lines = "".join(json.dumps([name, entry]) + "\n" for name, entry in self._used.items())
        head = json.dumps({"format": FORMAT, "sha256": _hash(lines)}) + "\n"
        with suppress(Mistake):
            write(self.path, head + lines)

    def _load(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            head, _, lines = self.path.read_text(encoding="utf-8").partition("\n")
            if json.loads(head) == {"format": FORMAT, "sha256": _hash(lines)}:
                return dict(map(json.loads, lines.splitlines()))
        return {}


def _sign(path: Path) -> list[int] | None:
    """Return what changes when a file is written; None if there is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
