"""Names of rows as a stranger may write them: no format of a table runs, computes or breaks at one."""

import csv
import io
import re
from dataclasses import replace

import pytest
import torch

from lumen.sweeps.reports import text as formats
from lumen.sweeps.results import collect

NAMES = [
    r"\input{/etc/passwd}",
    r"\immediate\write18{id}",
    r"a \\ \end{tabular} b",
    "50 % & more_of #3",
    "$x^2$ ~ {y}",
    "two\nlines",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    '@SUM(1,2),"x"',
    "\t=1+1",
    "\r=1+1",
    "a | b | c",
    "<script>alert(1)</script>",
    "*",
]
ESCAPED = re.compile(r"\\[_%&#${}]|\\text(backslash|asciitilde|asciicircum)\{\}")


@pytest.fixture
def tables(table, finish_run):
    """Results of a table whose first row has one name after the other."""
    finish_run(table, table.rows[0], 0, torch.rand(8))
    results, (old, *_) = collect(table), [row.name for row in table.rows]

    def rename(values: dict, name: str) -> dict:
        return {name if key == old else key: value for key, value in values.items()}

    def with_name(name: str):
        table.title = f"Title of {name}"
        return replace(results, rows=rename(results.rows, name), num_finished=rename(results.num_finished, name))

    return ((name, with_name(name)) for name in NAMES)


def test_latex_prints_the_name_of_a_row(tables):
    for name, results in tables:
        lines = formats.to_latex(results).splitlines()
        assert lines[0].startswith("% ") and lines[1].startswith(r"\begin{tabular}") and lines[2] == r"\toprule"
        body = [line for line in lines if line.endswith(r" \\")]
        cells = [re.split(r" (?<!\\)& ", line.removesuffix(r" \\")) for line in body]
        assert {len(row) for row in cells} == {len(cells[0])} and len(lines) == len(body) + 6
        printed = cells[1][0].removeprefix(r"\emph{") if name == "*" else cells[1][0]
        assert not set(ESCAPED.sub("", printed)) & set("\\_%&#$~^{\n") - set("{}" if name == "*" else ""), name


def test_csv_computes_nothing_of_the_name_of_a_row(tables):
    for name, results in tables:
        lines = list(csv.reader(io.StringIO(formats.to_csv(results), newline="")))
        assert {len(line) for line in lines} == {len(lines[0])}, name
        assert lines[1][0].lstrip("'") == " ".join(name.split())
        assert not lines[1][0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert float(lines[1][lines[0].index("lpips-scenes")]) > 0


def test_markdown_keeps_the_name_of_a_row_in_its_cell(tables):
    for name, results in tables:
        lines = [line for line in formats.to_markdown(results).splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(re.findall(r"\|", lines[1]))}, name
