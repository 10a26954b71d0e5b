"""Protocols of a table's runs: which differences make rows incomparable."""

import pytest

from lumen.core.errors import Mistake
from lumen.core.registry import metrics
from lumen.sweeps.protocol import describe_protocol, verify_comparable

BASE = {"images": 96, "samples": 2, "sampling": {"sampler": "dpm", "steps": 15, "guidance": 2.0}, "hash": "a"}


def with_metric(**arguments):
    return BASE | {"metrics": {"fid": {"evaluator": "0123"} | arguments}, "hash": str(arguments)}


def argument_with_default():
    name, argument = next((k, a) for k, a in metrics.arguments("fid").items() if not a.required)
    return name, argument.default


def test_protocol_difference_is_an_error_that_names_key_and_values():
    with pytest.raises(Mistake, match=r"images: 12 or 96"):
        verify_comparable([BASE, BASE | {"images": 12, "hash": "b"}])
    with pytest.raises(Mistake, match=r"sampling\.steps: 15 or 30"):
        verify_comparable([BASE, BASE | {"sampling": BASE["sampling"] | {"steps": 30}}])


def test_protocol_key_of_a_later_version_is_not_compared():
    verify_comparable([BASE, BASE | {"format": "8 bits", "data": {"questions": None}}])
    verify_comparable([BASE, with_metric()])
    verify_comparable([])


def test_protocol_that_lacks_an_argument_has_its_default():
    name, default = argument_with_default()
    verify_comparable([with_metric(), with_metric(**{name: default})])
    with pytest.raises(Mistake, match=rf"metrics\.fid\.{name}: .*other"):
        verify_comparable([with_metric(), with_metric(**{name: "other"})])


def test_protocol_without_a_metric_lacks_none_of_its_arguments():
    name, _ = argument_with_default()
    verify_comparable([BASE | {"metrics": {}}, with_metric(**{name: "other"})])
    verify_comparable([BASE, BASE | {"metrics": {"removed_metric": {"size": 3}}}])


def test_protocol_tuple_equals_the_list_that_json_makes_of_it():
    verify_comparable([with_metric(layers=(1, 2)), with_metric(layers=[1, 2])])


def test_protocol_sentence_holds_every_hash_once():
    text = describe_protocol([BASE, BASE, BASE | {"hash": "b"}])
    assert "96 held-out images" in text and "15 steps" in text and text.endswith("protocol a b.")
    assert describe_protocol([]) == ""
