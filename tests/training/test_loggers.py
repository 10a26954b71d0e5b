"""Loggers: none of them may end a training run, and each step stands once in metrics.jsonl."""

import json

import pytest
import wandb

from lumen.core.signals import Stopped
from lumen.training import loggers as tracking
from lumen.training.loggers import Journal, Tracker

IDENTITY = {"project": "lumen", "id": "abc", "name": "n", "group": "g", "job_type": "train", "tags": []}


def test_a_journal_that_goes_on_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = Journal(path, 0)
    for step in range(5):
        first.log_metrics({"train/loss": step, "epoch": 0}, step)
    path.write_text(path.read_text() + '{"step": 5, "train')  # cut off in the middle
    Journal(path, 3).log_metrics({"train/loss": 30}, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3] and lines[-1] == {"step": 3, "train/loss": 30}


def test_a_journal_that_had_no_room_writes_its_lines_later(tmp_path, capsys):
    path = tmp_path / "there" / "metrics.jsonl"
    path.parent.mkdir()
    journal = Journal(path, 0)
    journal.log_metrics({"train/loss": 0.0}, 0)
    path.parent.rename(tmp_path / "gone")
    journal.log_metrics({"train/loss": 1.0}, 1)
    (tmp_path / "gone").rename(path.parent)
    with open(path, "a") as file:
        file.write('{"step": 1, "tr')  # of it no more was written
    journal.log_metrics({"train/loss": 2.0}, 2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and "takes no more figures" in capsys.readouterr().out


def test_a_rank_that_does_not_write_leaves_the_file_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    Journal(tmp_path / "metrics.jsonl", None)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 9}\n'


def test_what_a_logger_trips_over_is_said_once(tmp_path, capsys):
    journal = Journal(tmp_path / "gone" / "metrics.jsonl", 0)
    for step in range(3):
        journal.log_metrics({"train/loss": 1.0}, step)
    assert capsys.readouterr().out.count("metrics.jsonl takes no more figures") == 1


@pytest.mark.parametrize(("mode", "said"), [("online", "logged offline"), ("offline", "logged in metrics.jsonl only")])
def test_training_starts_without_wandb(mode, said, tmp_path, monkeypatch, capsys):
    def unreachable(**_):
        raise wandb.errors.CommError("no answer")

    monkeypatch.setattr(wandb, "init", unreachable)
    assert tracking.tracker(mode, tmp_path, {}, IDENTITY) is None
    assert said in capsys.readouterr().out


def test_wandb_is_left_out_where_it_is_disabled(tmp_path, monkeypatch):
    assert tracking.tracker("disabled", tmp_path, {}, IDENTITY) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.tracker("auto", tmp_path, {}, IDENTITY) is None


def test_an_offline_run_is_ended_when_training_is(tmp_path):
    with tracking.closing():
        assert isinstance(tracking.tracker("offline", tmp_path, {"lr": {"max": 1}}, IDENTITY), Tracker)
        assert wandb.run.config["lr"] == {"max": 1}
    assert wandb.run is None


def test_a_run_that_is_told_to_stop_is_marked_for_the_next_agent(tmp_path, monkeypatch):
    marked = []
    monkeypatch.setattr(wandb.Run, "mark_preempting", lambda run: marked.append(run.id))
    with pytest.raises(Stopped), tracking.closing():
        tracking.tracker("offline", tmp_path, {}, IDENTITY)
        raise Stopped
    assert marked == ["abc"] and wandb.run is None


@pytest.mark.parametrize(
    ("server", "written", "known"),
    [
        (None, "api.forge.coreweave.com", True),  # what wandb 0.31 writes when it is logged in
        (None, "api.wandb.ai", True),
        (None, "elsewhere.org", False),
        ("https://wandb.here:8080", "wandb.here:8080", True),
        ("https://wandb.here:8080", "api.wandb.ai", False),
    ],
)
def test_a_key_is_found_where_wandb_login_put_it(server, written, known, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / ".netrc").write_text(f"machine {written}\n  login user\n  password {'0' * 40}\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking.has_key() == known
