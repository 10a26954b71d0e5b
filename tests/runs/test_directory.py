"""Files of a run directory: a damaged one is named, and a run without intact metrics is not finished."""

import json

import pytest
import yaml

from lumen.config.experiment import dump, load
from lumen.core.errors import BadFile, RunBusy, UnknownName
from lumen.core.files import write, write_json
from lumen.runs.directory import (
    is_finished,
    load_finished,
    load_provenance,
    load_results,
    load_run_config,
    run_id,
    verify_config,
    verify_dataset,
)

TEXT_DAMAGES = [b"", bytes(9), b"\xff{}", b"{", b"[]", b"null", b"3", b'"text"', b"[" * 600]
PROTOCOL = {"hash": "a", "images": 3, "samples": 2, "sampling": {"sampler": "ddim", "steps": 2, "guidance": 2.0}}
UNFINISHED = [{}, {"steps": 3}, {"precision": "32-true", "sampling": {"images": 1}}]
WRONG = [{"val/loss": "x"}, {"val/loss": None}, {"val/loss": [1]}, {"test/miou": 1.0, "test/miou_95": 3}]
WRONG += [{"test/miou_95": [1]}, {"test/miou_95": [1, "x"]}, {"val/loss": 1.0, "sampling": 3}]
WRONG += [
    {"val/loss": 1.0, "protocol": protocol}
    for protocol in (3, [], {}, PROTOCOL | {"hash": 1}, PROTOCOL | {"sampling": {}})
]
WRONG += [{"val/loss": 1.0, "protocol": PROTOCOL | {"metrics": []}}]


@pytest.fixture
def config():
    return load("scenes", ["backbone=dino"])


@pytest.mark.parametrize("content", [*TEXT_DAMAGES, *(json.dumps(values).encode() for values in (*UNFINISHED, *WRONG))])
def test_run_without_intact_metrics_is_not_finished(content, config, tmp_path, capsys):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(BadFile, match="metrics.json .*; repeat the run's command"):
        load_results(tmp_path)
    assert not is_finished(tmp_path) and load_finished(tmp_path, config) is None
    assert str(path) in capsys.readouterr().out and path.read_bytes() == content


def test_run_with_metrics_is_finished(config, tmp_path):
    assert load_results(tmp_path) is None and not is_finished(tmp_path)
    values = {"val/loss": float("nan"), "test/miou": 1, "test/miou_95": [0, 1.0], "steps": 3, "protocol": PROTOCOL}
    write_json(tmp_path / "metrics.json", values)
    assert is_finished(tmp_path) and load_finished(tmp_path, config)["test/miou"] == 1


@pytest.mark.parametrize("content", TEXT_DAMAGES)
def test_damaged_config_of_a_run_is_named(content, config, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    for read in (load_run_config, lambda path: verify_config(path, config)):
        with pytest.raises(BadFile, match="config.yaml .*remove it"):
            read(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"experiment": 3}, {"flags": []}, {"metrics": 3}, {"metrics": {"miou": 3}}, {"data": 3}, {"data": {}}]
    + [{"backbone": "dino"}, {"task": None}, {"defaults": [1]}, {"defaults": {"data": 3}}, {"steps": {1: 2, "a": 3}}],
)
def test_config_of_another_shape_is_named(changes, config, tmp_path):
    write(tmp_path / "config.yaml", yaml.safe_dump(dump(config)))
    assert load_run_config(tmp_path) == dump(config)
    write(tmp_path / "config.yaml", yaml.safe_dump(dump(config) | changes, sort_keys=False))
    with pytest.raises(BadFile, match="config.yaml "):
        load_run_config(tmp_path)
    with pytest.raises(UnknownName):
        load_run_config(tmp_path / "none")


@pytest.mark.parametrize("content", [*TEXT_DAMAGES, b"{}", b'{"data": 3}', b'{"data": "a"}'])
def test_damaged_provenance_is_named(content, tmp_path):
    (tmp_path / "provenance.json").write_bytes(content)
    for read in (load_provenance, lambda path: verify_dataset(path, "a")):
        with pytest.raises(BadFile, match="provenance.json .*remove it"):
            read(tmp_path)


def test_data_is_compared_with_the_provenance_if_there_is_one(tmp_path):
    verify_dataset(tmp_path, "a")
    hardware = {"gpus": [], "cpus": 2, "machine": "x86_64"}
    facts = {"command": "lumen train scenes", "commit": None, "data": "a", "hardware": hardware, "versions": {}}
    write_json(tmp_path / "provenance.json", facts)
    verify_dataset(tmp_path, "a")
    with pytest.raises(RunBusy):
        verify_dataset(tmp_path, "b")


@pytest.mark.parametrize("content", [b"", b"\xff", b"\0\0", b"../..", b"a b", "é".encode()])
def test_damaged_id_of_a_run_is_named(content, tmp_path):
    first = run_id(tmp_path)
    assert first == run_id(tmp_path) and len(first) == 12
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(BadFile, match="id .*remove it"):
        run_id(tmp_path)
