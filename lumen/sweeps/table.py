"""Tables: rows that differ in one override, from YAML or a grid, with the run and the commands of each row."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lumen.config.experiment import dump, load, reload
from lumen.config.identity import is_evaluation_key, sanitize
from lumen.config.lists import sort_values
from lumen.config.schema import EVALUATION_KEYS, NON_RESULT_KEYS, Config
from lumen.core.errors import BadConfig, Mistake, UnknownName, suggestion
from lumen.core.hashing import hash_json
from lumen.runs.directory import eval_directory, is_finished, load_results, run_directory
from lumen.sweeps.grid import EVAL_PREFIX
from lumen.sweeps.specs import read_spec

MAX_FILE_LETTERS = 60  # of the overrides in the name of a grid's files


@dataclass
class Row:
    """Row of a table.

    Attributes:
        name: Heading of the row.
        flag: Overrides of its training, as they are typed.
        eval: Overrides of `lumen eval`, where the row is not evaluated as it was trained.
        published: Values that the paper reports, by data set and metric.
    """

    name: str
    flag: str
    eval: str
    published: dict[str, dict[str, float]]


@dataclass
class Table:
    """Comparison of runs: one experiment, one override per row, every row once per seed.

    Attributes:
        overrides: Overrides of all rows.
        eval_overrides: Overrides under which all rows are evaluated again.
        curve: Two metrics to plot against each other, or none.
        row_filter: Arguments that leave out rows or change single rows, as they were typed.
        grid: Overrides of a grid, lists included; None for a table of a YAML file.
        problems: Sentences about damaged files, by file or run directory; the table is made without them.
    """

    name: str
    title: str
    base: str
    rows: list[Row]
    overrides: list[str]
    eval_overrides: list[str]
    seeds: int
    curve: list[str]
    row_filter: list[str] = field(default_factory=list)
    grid: list[str] | None = None
    problems: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)
    # Reports ask for the config and the commands of each row a dozen times, and reading a config takes 25 ms.
    _configs: dict[tuple[str, ...], Config] = field(default_factory=dict, repr=False, compare=False)
    _commands: dict[tuple[str, ...], dict[Path, str]] = field(default_factory=dict, repr=False, compare=False)

    def config(self, row: Row, seed: int, eval_overrides: Sequence[str] = ()) -> Config:
        """Return the config of a row, or of its evaluation under overrides. Callers share it and must not change it."""
        overrides = self._train_overrides(row, seed)
        key = (self.base, *overrides, EVAL_PREFIX, *eval_overrides)
        if key not in self._configs:
            if eval_overrides:
                self._configs[key] = reload(dump(self.config(row, seed)), eval_overrides)
            else:
                self._configs[key] = load(self.base, overrides)
        return self._configs[key]

    def commands(self, row: Row, seed: int) -> dict[Path, str]:
        """Return the commands that make a row, in order, by the directory that each one fills."""
        train_overrides = self._train_overrides(row, seed)
        overrides = [*shlex.split(row.eval), *self.eval_overrides]
        key = (self.base, *train_overrides, EVAL_PREFIX, *overrides)
        if key not in self._commands:
            run_dir = run_directory(self.config(row, seed))
            commands = {run_dir: shlex.join(["lumen", "train", self.base, *train_overrides])}
            if overrides:
                eval_dir = eval_directory(run_dir, self.config(row, seed, overrides))
                commands[eval_dir] = shlex.join(["lumen", "eval", str(run_dir), *overrides])
            self._commands[key] = commands
        return self._commands[key]

    def pending_commands(self, row: Row, seed: int) -> list[str]:
        """Return the commands of a row that have not finished."""
        commands = self.commands(row, seed)
        return [command for directory, command in commands.items() if not is_finished(directory)]

    def finished_runs(self, row: Row) -> list[Path]:
        """Return the directories of a row's finished runs, as evaluated for the table: one per seed.

        A run with damaged files is left out, and noted in `problems`.
        """
        evaluated = [list(self.commands(row, seed))[-1] for seed in range(self.seeds)]
        return [directory for directory in evaluated if self._has_results(directory)]

    @property
    def command(self) -> str:
        """Command that runs all rows."""
        words = [self.name, f"base={self.base}"] if self.grid is None else [self.base, *self.grid]
        shared = self._shared_overrides if self.grid is None else []
        return shlex.join(["lumen", "ablate", *words, f"seeds={self.seeds}", *self.row_filter, *shared])

    def output_path(self, suffix: str, prefix: str = "") -> Path:
        """Return the path of one of the table's files in runs/tables; each set of overrides has files of its own."""
        overrides = self._shared_overrides if self.grid is None else map(sort_values, self.grid)
        overrides = [text for text in overrides if text.partition("=")[0] not in NON_RESULT_KEYS]
        overrides += [f"seeds={self.seeds}"] if self.seeds > 1 else []
        parts, name = [self.name, Path(self.base).stem], sanitize(",".join(sorted(overrides)))
        if self.grid is not None:
            parts = [Path(self.base).stem]
            name = (
                name if len(name) <= MAX_FILE_LETTERS else f"{sanitize(self.name)}-{hash_json(sorted(overrides))[:8]}"
            )
        parts += [name] if overrides else []
        return Path(self.config(self.rows[0], 0).runs) / "tables" / f"{prefix}{'-'.join(parts)}{suffix}"

    def cache_path(self, suffix: str) -> Path:
        """Return the path of a file that keeps what was computed from the table's runs."""
        path = self.output_path(suffix)
        return path.parent / "cache" / path.name

    @contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """Note a mistake within the context, in which a file or a run is read, in `problems`."""
        try:
            yield
        except Mistake as mistake:
            self.problems[path] = str(mistake)

    def _has_results(self, directory: Path) -> bool:
        results = None
        with self.noting(directory):
            results = load_results(directory)
        return results is not None and directory not in self.problems

    def _train_overrides(self, row: Row, seed: int) -> list[str]:
        return [*shlex.split(row.flag), *self.overrides, f"seed={seed}"]

    @property
    def _shared_overrides(self) -> list[str]:
        return [*self.overrides, *(EVAL_PREFIX + override for override in self.eval_overrides)]


def read_table(
    name: str, base: str | None = None, seeds: int = 1, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Table:
    """Return a table by name, or the grid of an experiment.

    Args:
        name: Table, or experiment whose overrides hold lists of values.
        base: Experiment to run a table on instead of its own.
        seeds: Runs per row.
        overrides: Overrides of all rows. Those that begin with "eval." apply to the evaluation of all rows, those that
            begin with a row's name to that row.
        only: Names of rows; the others are left out.

    Raises:
        UnknownName: No table, no experiment, or no row has this name.
        BadConfig: A row cannot run; the message holds every mistake, with the rows that have it.
    """
    spec = read_spec(name, base, seeds, overrides)
    overrides, row_names = spec.overrides, list(spec.rows)
    for row in only:
        if row not in row_names:
            raise UnknownName(f"{name} has no row '{row}'; {suggestion(row, row_names)}")
    rows = [_build_row(row, fields, overrides) for row, fields in spec.rows.items()]
    rows = [row for row in rows if row.name in (only or row_names)]
    row_filter = [_format_filter(only)] if only else []
    if spec.typed is None:
        row_filter += [override for override in overrides if override.partition(".")[0] in row_names]
    common = [override for override in overrides if override.partition(".")[0] not in row_names]
    shared = [override for override in common if not override.startswith(EVAL_PREFIX)]
    eval_overrides = [o.removeprefix(EVAL_PREFIX) for o in common if o.startswith(EVAL_PREFIX)]
    table = Table(
        spec.name, spec.title, spec.base, rows, shared, eval_overrides, seeds, spec.curve, row_filter, spec.typed
    )
    _verify_overrides(table)
    _verify_rows(table)
    _verify_evaluations(table)
    _verify_folders(table)
    return table


def _format_filter(names: Sequence[str]) -> str:
    """Return the argument that selects rows; names with commas stand in quotes."""
    if any("," in name for name in names):
        return f"rows={json.dumps(list(names), ensure_ascii=False)}"
    return f"rows={','.join(names)}"


def _build_row(name: str, fields: dict[str, Any], overrides: Sequence[str]) -> Row:
    """Return a row; overrides of its own, as in ade20k.data.root=DIR, apply to its evaluation where it has one."""
    row = Row(name, fields.get("flag", ""), fields.get("eval", ""), fields.get("published", {}))
    own = shlex.join(text.removeprefix(f"{name}.") for text in overrides if text.startswith(f"{name}."))
    if own and row.eval:
        row.eval = f"{row.eval} {own}"
    elif own:
        row.flag = f"{row.flag} {own}".strip()
    return row


def _verify_overrides(table: Table) -> None:
    """Verify that no override of all rows sets the key in which the rows differ.

    Raises:
        BadConfig: One does.
    """
    keys = {"seed", *(_key(row.flag) for row in table.rows if row.flag)} & set(map(_key, table.overrides))
    keys |= {_key(row.eval) for row in table.rows if row.eval} & set(map(_key, table.eval_overrides))
    if keys:
        raise BadConfig(
            f"{min(keys)} is the key in which the rows of {table.name} differ, so it cannot be set for all of them; "
            "leave it out, or write seeds=3 for several seeds."
        )


def _verify_rows(table: Table) -> None:
    """Verify that the config of every row can be built.

    Raises:
        BadConfig: Some cannot; the message holds each mistake once, with the rows that have it.
    """
    mistakes: dict[str, list[str]] = {}
    for row in table.rows:
        try:
            table.commands(row, 0)
        except BadConfig as error:
            mistakes.setdefault(str(error), []).append(row.name)
    if mistakes:
        lines = [
            mistake if len(rows) == len(table.rows) else f"row {', '.join(rows)}: {mistake}"
            for mistake, rows in mistakes.items()
        ]
        raise BadConfig("\n".join(lines))


def _verify_evaluations(table: Table) -> None:
    """Verify that the evaluation of every row changes only what `lumen eval` may change.

    Raises:
        BadConfig: One does not; every row would be trained before its evaluation is refused.
    """
    overrides = [*(word for row in table.rows for word in shlex.split(row.eval)), *table.eval_overrides]
    if fixed := next((key for key in map(_key, overrides) if not is_evaluation_key(key)), None):
        raise BadConfig(
            f"{EVAL_PREFIX}{fixed} cannot be set, because {fixed} is decided by training; leave out {EVAL_PREFIX!r} to "
            f"train other runs. Evaluations change {', '.join(EVALUATION_KEYS)}."
        )


def _verify_folders(table: Table) -> None:
    """Verify that each row has a run directory, or an evaluation, of its own.

    Raises:
        BadConfig: A folder is named, which all rows would share, or two rows of a grid are one run.
    """
    if any(table.config(row, 0).name for row in table.rows):
        raise BadConfig(
            f"name= is the folder of a single run, and these are {len(table.rows)} rows; leave it out: each row has a "
            "folder of its own."
        )
    rows: dict[Path, str] = {}
    for row in table.rows if table.grid is not None else []:
        other = rows.setdefault(list(table.commands(row, 0))[-1], row.name)
        if other != row.name:
            raise BadConfig(f"the rows {other} and {row.name} are the same run; leave one of them out.")


def _key(override: str) -> str:
    return override.partition("=")[0]
