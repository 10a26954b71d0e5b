"""Definitions of tables: the rows of a YAML file in experiments/tables, or of a grid on the command line."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lumen.config.experiment import list_experiments, load
from lumen.core.errors import BadConfig, UnknownName, suggestion
from lumen.core.readers import Shape, explain_damage, read_text, read_yaml, require_shape
from lumen.sweeps.grid import read_grid

ROW_SHAPE: Shape = {"flag": str, "eval": str, "published": dict, "synthetic": str, "reference": bool}
TABLE_SHAPE: Shape = {"runs": list, "baseline": str, "data": dict}
DATA_SHAPE: Shape = {"flag": str, "rows": dict, "runs": list}


@dataclass(frozen=True)
class TableSpec:
    """Definition of a table.

    Attributes:
        rows: Fields of each row by its name.
        curve: Two metrics to plot against each other, or none.
        overrides: Overrides of all rows, of their evaluation, and of single rows.
        typed: Overrides of a grid, lists included; None for a table of a YAML file.
        runs: Overrides of each of the runs whose metrics stand side by side in a row.
        baseline: Row that the others are compared with; None where that is the best one.
        defaults: Overrides of all rows that the table itself names.
    """

    name: str
    title: str
    base: str
    rows: dict[str, dict[str, Any]]
    curve: list[str]
    overrides: list[str]
    typed: list[str] | None = None
    runs: tuple[str, ...] = ("",)
    baseline: str | None = None
    defaults: tuple[str, ...] = ()


def table_names() -> list[str]:
    """Return the names of the tables in experiments/tables."""
    directory = files("experiments") / "tables"
    return sorted(Path(file.name).stem for file in directory.iterdir() if file.name.endswith(".yaml"))


def read_rows(name: str) -> list[str]:
    """Return the names of a table's rows."""
    return list(_read_file(name, None, []).rows)


def read_spec(name: str, base: str | None, seeds: int, overrides: Sequence[str]) -> TableSpec:
    """Return the definition of a table, or of the grid of an experiment.

    Args:
        base: Experiment to run a table on instead of its own.
        seeds: Runs per row.

    Raises:
        UnknownName: There is no such table or experiment.
        BadConfig: The lists of a grid make no rows that can be compared, or an experiment is given another base.
        BadFile: The table's file is no YAML of rows.
    """
    if name in table_names() or not (name.endswith((".yaml", ".yml")) or name in list_experiments()):
        return _read_file(name, base, overrides)
    if base is not None:
        raise BadConfig(f"{name} is an experiment and no table, so it has no other base; leave out base={base}.")
    grid = read_grid(name, overrides, seeds)
    return TableSpec(grid.name, grid.title, name, grid.rows, [], grid.others, grid.typed)


def _read_file(name: str, base: str | None, overrides: Sequence[str]) -> TableSpec:
    if name not in table_names():
        hint = suggestion(name, [*table_names(), *list_experiments()])
        raise UnknownName(f"no table or experiment is called '{name}'; {hint}")
    path, remedy = Path(str(files("experiments"))) / "tables" / f"{name}.yaml", "correct it"
    spec = read_yaml(path, remedy, {"base": str, "rows": dict})
    with explain_damage(path, remedy):
        _verify(spec)
        base, curve = base or spec["base"], spec.get("curve", [])
        own = spec["data"].get(_data_name(base, overrides), {}) if "data" in spec else {}
        changed = {row: spec["rows"].get(row, {}) | fields for row, fields in own.get("rows", {}).items()}
        rows = {str(row): fields for row, fields in (spec["rows"] | changed).items()}
        if not rows or not isinstance(curve, list):
            raise ValueError("it has no rows" if not rows else "its 'curve' is no list of two metrics")
        if spec.get("baseline") not in (None, *rows):
            raise ValueError(f"its 'baseline' is no row: {spec['baseline']}")
    title = read_text(path, remedy).partition("\n")[0].lstrip("# ")
    runs, defaults = own.get("runs", spec.get("runs", [""])), shlex.split(own.get("flag", ""))
    others = tuple(runs), spec.get("baseline"), tuple(defaults)
    return TableSpec(name, title, base, rows, curve, list(overrides), None, *others)


def _verify(spec: dict[str, Any]) -> None:
    """Verify the types of a table's fields.

    Raises:
        ValueError: One has another type.
    """
    _verify_present(spec, TABLE_SHAPE)
    blocks = spec.get("data", {})
    require_shape(blocks, dict.fromkeys(blocks, dict))
    for block in blocks.values():
        _verify_present(block, DATA_SHAPE)
    for runs in (block["runs"] for block in (spec, *blocks.values()) if "runs" in block):
        numbered = {f"run {number}": run for number, run in enumerate(runs, 1)}
        require_shape(numbered, dict.fromkeys(numbered, str))
    for rows in (spec["rows"], *(block.get("rows", {}) for block in blocks.values())):
        require_shape(rows, dict.fromkeys(rows, dict))
        for fields in rows.values():
            _verify_present(fields, ROW_SHAPE)
            require_shape(fields.get("published", {}), dict.fromkeys(fields.get("published", {}), dict))


def _verify_present(fields: dict[str, Any], shape: Shape) -> None:
    require_shape(fields, {key: kind for key, kind in shape.items() if key in fields})


def _data_name(base: str, overrides: Sequence[str]) -> str:
    """Return the name of the data set that an experiment has under these overrides."""
    named = [override for override in overrides if override.partition("=")[0] in ("data", "data.name")]
    return load(base, named, complete=False).data["name"]
