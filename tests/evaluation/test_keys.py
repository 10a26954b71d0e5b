"""Keys of metric values: text and back, parts, intervals, columns."""

import subprocess
import sys

import pytest

from lumen.evaluation.keys import MetricKey, metric_keys

KEYS = {
    "test/miou": MetricKey("test", "miou"),
    "test/miou_95": MetricKey("test", "miou", interval=True),
    "test/miou/sky": MetricKey("test", "miou", "sky"),
    "test/miou/sky_95": MetricKey("test", "miou", "sky_95"),
    "test/miou/a/b": MetricKey("test", "miou", "a/b"),
    "real/kid-scenes": MetricKey("real", "kid-scenes"),
    "real/kid-scenes_95": MetricKey("real", "kid-scenes", interval=True),
    "val/loss": MetricKey("val", "loss"),
}


@pytest.mark.parametrize("text", KEYS)
def test_metric_key_is_written_as_it_is_parsed(text):
    key = MetricKey.parse(text)
    assert key == KEYS[text] and str(key) == text and key.column == text.partition("/")[2]


def test_metric_key_names_the_registered_metric():
    names = [MetricKey.parse(text).registry_name for text in ("test/lpips-scenes_95", "test/si_depth", "test/miou/a-b")]
    assert names == ["lpips", "si_depth", "miou"]


def test_metric_keys_of_one_kind_keep_their_order():
    assert metric_keys(["step", *KEYS, "protocol"]) == list(KEYS.values())
    assert list(map(str, metric_keys(KEYS, "real"))) == ["real/kid-scenes", "real/kid-scenes_95"]


def test_metric_key_is_imported_without_torch():
    command = "import sys, lumen.evaluation.keys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
