"""Every row at a small size: the same results as its peer's, the operations saved; and the README's table."""

import pytest

from benchmarks import _table
from benchmarks._rows import compared, rows

ROWS = rows()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_its_peers_results_with_fewer_operations(name):
    row = ROWS[name]
    found = compared(row, row.inputs(small=True))
    assert found["passed"], found
    assert row.TARGET > 0 and row.ROUNDS > 0 and row.PEER and row.__doc__


def test_the_readme_has_the_table_of_the_results():
    assert _table.inside(_table.README.read_text()) == _table.section()
