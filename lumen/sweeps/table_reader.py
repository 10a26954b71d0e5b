"""Tables by name: their rows and overrides, verified before anything runs."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumen.config.experiment import dump
from lumen.config.identity import is_evaluation_key, result_settings
from lumen.config.schema import EVALUATION_KEYS, MIXING_KEYS, RUN_KEYS
from lumen.core.errors import BadConfig, UnknownName, suggestion
from lumen.sweeps.chains import SYNTHETIC_PREFIX, key_of
from lumen.sweeps.grid import EVAL_PREFIX
from lumen.sweeps.specs import read_spec
from lumen.sweeps.table import Row, Table

# Keys in which rows that learn from images may differ; in all others they have one recipe.
COMPARED_KEYS = {*RUN_KEYS, *MIXING_KEYS, "task.images"}


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
        spec.name, spec.title, spec.base, rows, shared, eval_overrides, seeds, spec.curve, row_filter, spec.typed,
        spec.runs, spec.baseline, spec.defaults,
    )  # fmt: skip
    _verify(table)
    return table


def _format_filter(names: Sequence[str]) -> str:
    """Return the argument that selects rows; names with commas stand in quotes."""
    if any("," in name for name in names):
        return f"rows={json.dumps(list(names), ensure_ascii=False)}"
    return f"rows={','.join(names)}"


def _build_row(name: str, fields: dict[str, Any], overrides: Sequence[str]) -> Row:
    """Return a row; overrides of its own, as in ade20k.data.root=DIR, apply to its evaluation where it has one."""
    row = Row(name, fields.get("flag", ""), fields.get("eval", ""), fields.get("published", {}))
    row.synthetic, row.is_reference = fields.get("synthetic"), fields.get("reference", False)
    own = [text.removeprefix(f"{name}.") for text in overrides if text.startswith(f"{name}.")]
    generating = [text.removeprefix(SYNTHETIC_PREFIX) for text in own if text.startswith(SYNTHETIC_PREFIX)]
    if generating and row.synthetic is not None:
        row.synthetic = f"{row.synthetic} {shlex.join(generating)}".strip()
        own = [text for text in own if not text.startswith(SYNTHETIC_PREFIX)]
    if own and row.eval:
        row.eval = f"{row.eval} {shlex.join(own)}"
    elif own:
        row.flag = f"{row.flag} {shlex.join(own)}".strip()
    return row


def _verify(table: Table) -> None:
    """Verify that the rows of a table can run, and be compared.

    Raises:
        BadConfig: They cannot.
    """
    _verify_overrides(table)
    _verify_rows(table)
    _verify_evaluations(table)
    _verify_folders(table)
    _verify_recipes(table)


def _verify_overrides(table: Table) -> None:
    """Verify that no override of all rows sets the key in which the rows differ.

    Raises:
        BadConfig: One does.
    """
    # Flags of rows that learn from images are exceptions from those of all rows; their task is the table's.
    rows, fixed = ([], {"task", "task.name", *RUN_KEYS}) if table.learns_from_images else (table.rows, set())
    keys = {"seed", *fixed, *(key_of(row.flag) for row in rows if row.flag)} & set(map(key_of, table.overrides))
    keys |= {key_of(row.eval) for row in table.rows if row.eval} & set(map(key_of, table.eval_overrides))
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
            table.commands(row, 0)  # of all its runs
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
    if fixed := next((key for key in map(key_of, overrides) if not is_evaluation_key(key)), None):
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


def _verify_recipes(table: Table) -> None:
    """Verify that rows which learn from images are trained by one recipe: equal steps and batches above all.

    Raises:
        BadConfig: One is not.
    """
    for part in table.parts if table.learns_from_images else []:
        recipes = {row.name: result_settings(dump(part.config(row, 0))) for row in part.rows}
        (first, recipe), *others = recipes.items()
        for name, other in others:
            changed = [key for key in sorted(recipe | other) if recipe.get(key) != other.get(key)]
            if key := next((key for key in changed if key not in COMPARED_KEYS), None):
                raise BadConfig(
                    f"row {name} has {key}={other.get(key)}, and row {first} has {key}={recipe.get(key)}; rows of "
                    f"different recipes make no table, so set {key} for all rows or for none."
                )
