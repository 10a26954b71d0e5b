"""Progress of trials: the line about a run's cache, and durations."""

import json
from pathlib import Path

import pytest

from lumen.sweeps.progress import format_cache, format_duration
from lumen.sweeps.trial import Trial

RECORD = {"cached": ["latents"], "images": 6, "views": None, "seconds": 0.0, "saved_seconds": 47.4, "reason": None}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "cached latents of 6 images, saved about 47 s"),
        ({"seconds": 600.0}, "cached latents of 6 images in 10 min, saved about 47 s"),
        ({"cached": ["latents", "layouts"]}, "cached latents and layouts of 6 images, saved about 47 s"),
        ({"saved_seconds": -2.0}, "cached latents of 6 images, saved about 0 s"),
        ({"reason": "no room for layouts"}, "cached latents of 6 images, saved about 47 s (no room for layouts)"),
        ({"cached": [], "reason": "one epoch"}, "nothing cached: one epoch"),
        ({"cached": []}, ""),
    ],
)
def test_cache_record_is_one_line(changes, text):
    assert format_cache(RECORD | changes) == text


def test_cache_record_is_empty_for_older_runs_and_damaged_files(tmp_path):
    trial = Trial("a", {tmp_path: "quick"}, 4, 2)
    assert trial.cache_record() == {} and format_cache({}) == ""
    for content in ("", "{", "[]", "null"):
        (tmp_path / "cache.json").write_text(content)
        assert trial.cache_record() == {}
    (tmp_path / "cache.json").write_text(json.dumps(RECORD))
    assert trial.cache_record() == RECORD
    assert Trial("b", {Path("/missing"): "quick"}, 4, 2).cache_record() == {}


def test_duration_is_in_a_unit_of_its_size():
    assert [format_duration(seconds) for seconds in (3.2, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
