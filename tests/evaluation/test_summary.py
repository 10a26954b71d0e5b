"""Summary of an evaluation: a table that a person reads."""

import pytest
from torch import nn

from lumen.core.interfaces import Metric
from lumen.core.registry import metrics, tasks
from lumen.evaluation.summary import format_number, format_summary

REFERENCE_ROWS = tasks.literal("layout_to_image", "reference_rows")


class Score(Metric):
    """Metric of a key, without a network."""

    def __init__(self, key: str):
        super().__init__(nn.Identity())
        self.name = key

    @property
    def key(self) -> str:
        return self.name


def scores(*keys: str) -> dict[str, Metric]:
    """Return metrics of these keys, each with the direction of the registered one."""
    directions = {key: metrics.literal(key.partition("-")[0], "higher_is_better") for key in keys}
    return {key: type("Score", (Score,), {"higher_is_better": up})(key) for key, up in directions.items()}


@pytest.fixture
def values() -> dict:
    """Results of a run with two metrics, of which one has no value for real images."""
    return {
        "val/loss": 0.06254,
        "protocol": {"images": 96},
        "test/miou": 0.3496,
        "test/miou_95": [0.3092, 0.4],
        "test/miou/sky": 0.9,
        "real/miou": 0.914,
        "text/miou": 0.378,
        "test/kid-scenes": -1314.6,
        "test/kid-scenes_95": [-2266.0, 1740.2],
        "text/kid-scenes": 385.0,
    }


def test_summary_is_an_aligned_table_under_human_names(values):
    assert format_summary(values, scores("miou", "kid-scenes"), REFERENCE_ROWS).splitlines() == [
        "                   samples             95 %    real  caption",
        "                                   interval  images    alone",
        "validation loss ↓   0.0625",
        "mIoU ↑                0.35     0.309 to 0.4   0.914    0.378",
        "KID-scenes ↓        -1,315  -2,266 to 1,740              385",
        "↑ higher is better, ↓ lower is better; confidence intervals over 96 images",
    ]


def test_summary_of_all_metrics_fits_into_80_columns(values):
    names = ["miou", "si_depth", "kid-scenes", "lpips-scenes", "tifa"]
    values |= {f"{row}/{name}": -1000.0 for row in ("test", *REFERENCE_ROWS) for name in names}
    values |= {f"test/{name}_95": [0.1234, 0.1234] for name in names} | {"test/kid-scenes_95": [-1210.0, 1740.0]}
    lines = format_summary(values, scores(*names), REFERENCE_ROWS).splitlines()
    assert max(map(len, lines)) <= 80


def test_summary_leaves_a_place_blank_where_a_value_has_no_interval(values):
    del values["test/miou_95"]
    line = format_summary(values, scores("miou"), REFERENCE_ROWS).splitlines()[3]
    assert line.split() == ["mIoU", "↑", "0.35", "0.914", "0.378"]


def test_summary_without_metrics_is_the_validation_loss():
    assert format_summary({"val/loss": 0.07}, {}, REFERENCE_ROWS) == "validation loss 0.07"


def test_summary_writes_no_exponents():
    assert list(map(format_number, (-1210.4, 999.6, 0.5, 0, None))) == ["-1,210", "1e+03", "0.5", "0", ""]
