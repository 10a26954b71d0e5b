"""W&B's logger: one run per directory, no failure that ends training, and the end of a run."""

import pytest
import torch
import wandb

from lumen.core.errors import Diverged
from lumen.core.signals import SignalInterrupt
from lumen.training.wandb_logger import ResilientWandbLogger, build_wandb_logger, finish_wandb, has_key

IDENTITY = {"project": "lumen", "id": "abc", "name": "n", "group": "g", "job_type": "train", "tags": []}


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


def test_wandb_run_whose_loss_diverges_sends_an_alert(tmp_path, monkeypatch):
    alerts = []
    monkeypatch.setattr(wandb.Run, "alert", lambda run, title, text, **_: alerts.append((title, text)))
    with pytest.raises(Diverged), finish_wandb():
        build_wandb_logger("offline", tmp_path, {}, IDENTITY)
        raise Diverged("at step 3 the loss is no longer a finite number")
    assert alerts == [("run diverged", "at step 3 the loss is no longer a finite number")]


def test_wandb_tags_of_the_environment_are_added(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", "table1,DINO,backbone:dino")
    with finish_wandb():
        build_wandb_logger(
            "offline", tmp_path, {}, IDENTITY | {"tags": ["backbone:dino", "long " * 30], "name": "n" * 300}
        )
        assert set(wandb.run.tags) == {"table1", "DINO", "backbone:dino", ("long " * 30)[:64]}
        assert len(wandb.run.name) == 128


def test_wandb_pictures_and_files_that_fail_do_not_end_the_run(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with finish_wandb():
        logger = build_wandb_logger("offline", tmp_path, {}, IDENTITY)
        monkeypatch.setattr(wandb, "Image", fail)
        monkeypatch.setattr(wandb, "Table", fail)
        capsys.readouterr()
        logger.log_preview({"image": torch.zeros(1, 3, 4, 4)}, ["a"], 0)
        logger.log_results({"test/miou": 0.5}, None)
        logger.log_files("run", [tmp_path / "missing"])
    assert capsys.readouterr().out.count("No space left") == 1
