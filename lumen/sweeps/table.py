"""Tables: rows that differ in one override, from YAML or a grid, with the run and the commands of each row."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from lumen.config.experiment import dump, load, reload
from lumen.config.identity import sanitize
from lumen.config.lists import sort_values
from lumen.config.schema import NON_RESULT_KEYS, Config
from lumen.core.errors import Mistake
from lumen.core.hashing import hash_json
from lumen.core.registry import generators
from lumen.runs.directory import eval_directory, is_finished, load_results, run_directory
from lumen.sweeps.chains import key_of, merge, select_generating, select_learning
from lumen.sweeps.grid import EVAL_PREFIX

MAX_FILE_LETTERS = 60  # of the overrides in the name of a grid's files


@dataclass
class Row:
    """Row of a table.

    Attributes:
        name: Heading of the row.
        flag: Overrides of its training, as they are typed.
        eval: Overrides of `lumen eval`, where the row is not evaluated as it was trained.
        published: Values that the paper reports, by data set and metric.
        synthetic: Overrides of the run whose generated images the row learns from; None if it learns from none.
        is_reference: Whether the row is a reference, which is never the best of a column.
    """

    name: str
    flag: str
    eval: str
    published: dict[str, dict[str, float]]
    synthetic: str | None = None
    is_reference: bool = False


@dataclass
class Table:
    """Comparison of runs: one experiment, one override per row, every row once per seed.

    Attributes:
        overrides: Overrides of all rows.
        eval_overrides: Overrides under which all rows are evaluated again.
        curve: Two metrics to plot against each other, or none.
        row_filter: Arguments that leave out rows or change single rows, as they were typed.
        grid: Overrides of a grid, lists included; None for a table of a YAML file.
        runs: Overrides of each of the runs whose metrics stand side by side in a row.
        baseline: Row that the others are compared with; None where that is the best one.
        defaults: Overrides of all rows that the table itself names; those of the user come first.
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
    runs: tuple[str, ...] = ("",)
    baseline: str | None = None
    defaults: tuple[str, ...] = ()
    problems: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)
    # Reports ask for the config and the commands of each row a dozen times, and reading a config takes 25 ms.
    _configs: dict[tuple[str, ...], Config] = field(default_factory=dict, repr=False, compare=False)
    _directories: dict[tuple[str, ...], Path] = field(default_factory=dict, repr=False, compare=False)
    _commands: dict[tuple[str, ...], dict[Path, str]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def parts(self) -> list["Table"]:
        """Tables of one run per row and seed, whose columns stand side by side: this one, if it is such a table."""
        return [self] if len(self.runs) == 1 else [replace(self, runs=(run,)) for run in self.runs]

    @property
    def learns_from_images(self) -> bool:
        """True if rows learn from generated images, or are compared with such rows."""
        return self.runs != ("",)

    def config(self, row: Row, seed: int, eval_overrides: Sequence[str] = ()) -> Config:
        """Return the config of a row, or of its evaluation under overrides. Callers share it and must not change it.

        Of several runs per row, it is that of the first.
        """
        config = self._load(overrides := self._train_overrides(row, seed))
        key = (self.base, *overrides, EVAL_PREFIX, *eval_overrides)
        if eval_overrides and key not in self._configs:
            self._configs[key] = reload(dump(config), eval_overrides)
        return self._configs[key] if eval_overrides else config

    def commands(self, row: Row, seed: int) -> dict[Path, str]:
        """Return the commands that make a row, in order, by the directory that each one fills."""
        if len(self.runs) > 1:
            return {path: text for part in self.parts for path, text in part.commands(row, seed).items()}
        train_overrides = self._train_overrides(row, seed)
        overrides = [*shlex.split(row.eval), *self.eval_overrides]
        key = (self.base, *train_overrides, EVAL_PREFIX, *overrides)
        if key not in self._commands:
            run_dir, commands = self._directory(train_overrides), {}
            if row.synthetic is not None:
                generating = self._generating_overrides(row)
                commands[self.generating_run(row)] = shlex.join(["lumen", "train", self.base, *generating])
            commands[run_dir] = shlex.join(["lumen", "train", self.base, *train_overrides])
            if overrides:
                eval_dir = eval_directory(run_dir, self.config(row, seed, overrides))
                commands[eval_dir] = shlex.join(["lumen", "eval", str(run_dir), *overrides])
            self._commands[key] = commands
        return self._commands[key]

    def generating_run(self, row: Row) -> Path | None:
        """Return the directory of the run whose images a row learns from: of seed 0, whatever the seed of the row."""
        return None if row.synthetic is None else self._directory(self._generating_overrides(row))

    def trainings(self, row: Row, seed: int) -> dict[Path, Config]:
        """Return the config of each training of a row by its directory, in order."""
        overrides = [] if row.synthetic is None else [self._generating_overrides(row)]
        overrides += [part._train_overrides(row, seed) for part in self.parts]
        return {self._directory(words): self._load(words) for words in overrides}

    def pending_commands(self, row: Row, seed: int) -> list[str]:
        """Return the commands of a row that have not finished."""
        commands = self.commands(row, seed)
        return [command for directory, command in commands.items() if not is_finished(directory)]

    def finished_runs(self, row: Row) -> list[Path]:
        """Return the directories of a row's finished runs, as evaluated for the table: one per seed, and per run.

        A run with damaged files is left out, and noted in `problems`.
        """
        evaluated = [list(part.commands(row, seed))[-1] for part in self.parts for seed in range(self.seeds)]
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

    def _load(self, overrides: list[str]) -> Config:
        key = (self.base, *overrides)
        if key not in self._configs:
            self._configs[key] = load(self.base, overrides)
        return self._configs[key]

    def _directory(self, overrides: list[str]) -> Path:
        key = (self.base, *overrides)
        if key not in self._directories:
            self._directories[key] = run_directory(self._load(overrides))
        return self._directories[key]

    def _train_overrides(self, row: Row, seed: int) -> list[str]:
        """Return the overrides of the first run of a row."""
        own = shlex.split(row.flag)
        if not self.learns_from_images:
            return [*own, *self.overrides, f"seed={seed}"]
        source = [f"task.synthetic={self.generating_run(row)}"] if row.synthetic is not None else []
        run, is_mixed = shlex.split(self.runs[0]), row.synthetic is not None
        given, defaults = (select_learning(words, is_mixed) for words in (self.overrides, self.defaults))
        words = merge(source, own, given, run, defaults, [f"seed={seed}"])
        return sorted(words, key=lambda word: word not in run)  # which begins with the task

    def _generating_overrides(self, row: Row) -> list[str]:
        """Return the overrides of the run whose images a row learns from."""
        own, shared = shlex.split(row.synthetic), select_generating(merge(self.overrides, self.defaults))
        names = [override.partition("=")[2] for override in own if key_of(override) == "generator"]
        required = {key for name in names for key in generators.literal(name, "requires", {})}
        return merge(own, [override for override in shared if key_of(override) not in required], ["seed=0"])

    @property
    def _shared_overrides(self) -> list[str]:
        return [*self.overrides, *(EVAL_PREFIX + override for override in self.eval_overrides)]
