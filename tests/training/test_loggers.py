"""Loggers: none of them ends a training run, and metrics.jsonl has each step once."""

import json

import pytest
import wandb

from lumen.core.signals import SignalInterrupt
from lumen.training.loggers import JSONLLogger, ResilientWandbLogger, build_wandb_logger, finish_wandb, has_key

IDENTITY = {"project": "lumen", "id": "abc", "name": "n", "group": "g", "job_type": "train", "tags": []}


def test_jsonl_logger_drops_lines_that_a_resumed_run_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    logger = JSONLLogger(path, 0)
    for step in range(5):
        logger.log_metrics({"train/loss": step, "epoch": 0}, step)
    path.write_text(path.read_text() + '{"step": 5, "train')  # cut off in the middle
    JSONLLogger(path, 3).log_metrics({"train/loss": 30}, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3] and lines[-1] == {"step": 3, "train/loss": 30}


def test_jsonl_logger_writes_lines_later_that_had_no_room(tmp_path, capsys):
    path = tmp_path / "run" / "metrics.jsonl"
    path.parent.mkdir()
    logger = JSONLLogger(path, 0)
    logger.log_metrics({"train/loss": 0.0}, 0)
    path.parent.rename(tmp_path / "moved")
    logger.log_metrics({"train/loss": 1.0}, 1)
    (tmp_path / "moved").rename(path.parent)
    with open(path, "a") as file:
        file.write('{"step": 1, "tr')  # part of a line, as on a full disk
    logger.log_metrics({"train/loss": 2.0}, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and "metrics.jsonl" in capsys.readouterr().out


def test_jsonl_logger_of_other_ranks_leaves_the_file_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    JSONLLogger(tmp_path / "metrics.jsonl", None)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 9}\n'


def test_logger_failure_is_reported_once(tmp_path, capsys):
    logger = JSONLLogger(tmp_path / "missing" / "metrics.jsonl", 0)
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(("mode", "target"), [("online", "offline"), ("offline", "metrics.jsonl")])
def test_wandb_logger_is_left_out_if_wandb_does_not_answer(mode, target, tmp_path, monkeypatch, capsys):
    def init(**_):
        raise wandb.errors.CommError("no answer")

    monkeypatch.setattr(wandb, "init", init)
    assert build_wandb_logger(mode, tmp_path, {}, IDENTITY) is None
    assert target in capsys.readouterr().out


def test_wandb_logger_is_left_out_if_disabled(tmp_path, monkeypatch):
    assert build_wandb_logger("disabled", tmp_path, {}, IDENTITY) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert build_wandb_logger("auto", tmp_path, {}, IDENTITY) is None


def test_wandb_run_ends_with_training(tmp_path):
    with finish_wandb():
        logger = build_wandb_logger("offline", tmp_path, {"lr": {"max": 1}}, IDENTITY)
        assert isinstance(logger, ResilientWandbLogger)
        assert wandb.run.config["lr"] == {"max": 1}
    assert wandb.run is None


def test_wandb_run_that_a_signal_stops_is_marked_as_preempted(tmp_path, monkeypatch):
    preempted = []
    monkeypatch.setattr(wandb.Run, "mark_preempting", lambda run: preempted.append(run.id))
    with pytest.raises(SignalInterrupt), finish_wandb():
        build_wandb_logger("offline", tmp_path, {}, IDENTITY)
        raise SignalInterrupt
    assert preempted == ["abc"] and wandb.run is None


@pytest.mark.parametrize(
    ("server", "machine", "exists"),
    [
        (None, "api.forge.coreweave.com", True),  # as wandb 0.31 writes it at a login
        (None, "api.wandb.ai", True),
        (None, "elsewhere.org", False),
        ("https://wandb.here:8080", "wandb.here:8080", True),
        ("https://wandb.here:8080", "api.wandb.ai", False),
    ],
)
def test_wandb_key_is_read_where_wandb_login_writes_it(server, machine, exists, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / ".netrc").write_text(f"machine {machine}\n  login user\n  password {'0' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key() == exists
