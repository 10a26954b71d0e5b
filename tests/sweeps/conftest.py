"""Tables whose runs are finished without training."""

from collections.abc import Callable

import pytest
from torch import Tensor

from lumen.core.files import write_json
from lumen.evaluation.scores import PerImageScores, save_scores
from lumen.sweeps.table import Row, Table
from lumen.sweeps.table_reader import read_table

PROTOCOL = {
    "images": 200,
    "samples": 2,
    "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0},
    "hash": "abc",
}


@pytest.fixture
def table(workdir):
    """Table 1 on scenes; none of its runs has finished."""
    return read_table("table1", base="scenes")


@pytest.fixture
def finish_run() -> Callable[..., None]:
    """Function that writes the results of a finished run: scores of one metric, and further values."""

    def finish(
        table: Table,
        row: Row,
        seed: int,
        scores: Tensor,
        protocol: dict = PROTOCOL,
        key: str = "lpips-scenes",
        **values,
    ) -> None:
        directory = list(table.commands(row, seed))[-1]
        values |= {f"test/{key}": float(scores.mean()), f"test/{key}_95": [0.0, 1.0], "protocol": protocol}
        ids = [f"{i:03d}" for i in range(len(scores))]
        per_image = PerImageScores(ids, [""] * len(ids), {key: scores})
        save_scores(directory / "samples.parquet", {"test": per_image})
        write_json(directory / "metrics.json", values)

    return finish
