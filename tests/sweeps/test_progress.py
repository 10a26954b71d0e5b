"""Progress of trials: the line of a finished run, and durations."""

import pytest

from lumen.sweeps.progress import format_duration, format_metrics


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({}, []),
        ({"val/loss": 0.0651, "steps": 4}, ["val/loss 0.0651"]),
        (
            {"val/loss": 0.1, "test/miou": 0.6921, "test/miou_95": [0.6, 0.7], "test/miou/sky": 0.9, "real/miou": 0.9},
            ["miou 0.692"],
        ),
        ({"test/miou": 0.5, "test/lpips-scenes": 0.3187}, ["miou 0.5", "lpips-scenes 0.319"]),
    ],
)
def test_finished_run_shows_its_metrics(results, words):
    assert format_metrics(results) == words


def test_duration_is_in_a_unit_of_its_size():
    assert [format_duration(seconds) for seconds in (3.2, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
