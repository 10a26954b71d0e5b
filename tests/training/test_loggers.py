"""Loggers: none of them ends a training run, and metrics.jsonl has each step once."""

import csv
import json

import pytest

from lumen.__main__ import main
from lumen.training import loggers
from lumen.training.loggers import JSONLLogger, build_lightning_logger


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


def read_csv(path) -> list[dict[str, str]]:
    with open(path / "csv" / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_logger_continues_the_history_of_a_resumed_run(tmp_path):
    for start in (0, 3):  # the first start was killed after step 4
        history, table = JSONLLogger(tmp_path / "metrics.jsonl", start), build_lightning_logger("csv", tmp_path)
        for step in range(start, 5):
            for logger in (history, table):
                for _ in range(2):  # a checkpoint logs the values of its step again
                    logger.log_metrics({"train/loss": float(step + start)}, step)
        history.log_metrics({"val/loss": 9.0}, 4)
        table.log_metrics({"val/loss": 9.0}, 4)
        table.save()
    rows = [row for row in read_csv(tmp_path) if row["train/loss"]]
    assert [(row["step"], float(row["train/loss"])) for row in rows] == [
        ("0", 0), ("1", 1), ("2", 2), ("3", 6), ("4", 7)
    ]  # fmt: skip
    assert [row["step"] for row in read_csv(tmp_path) if row["val/loss"]] == ["4"]


def test_csv_logger_that_cannot_write_is_reported_once(tmp_path, capsys):
    logger = build_lightning_logger("csv", tmp_path)
    (tmp_path / "csv" / "metrics.csv").mkdir()
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.save()
    assert capsys.readouterr().out.count("CSVLogger") == 1


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_logger_whose_library_is_missing_is_refused_before_anything_is_made(name, workdir, monkeypatch, capsys):
    monkeypatch.setattr(loggers, "find_spec", lambda library: None)
    assert main(["train", "scenes", f"logger=[wandb,{name}]"]) == 2
    message = capsys.readouterr().err
    assert f"logger={name}" in message and f"pip install {name}" in message and not list(workdir.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_logger_of_an_installed_library_writes_to_the_run(name, tmp_path):
    pytest.importorskip(loggers.LIBRARIES[name][0])
    logger = build_lightning_logger(name, tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize("success")
    assert list((tmp_path / name).iterdir())
