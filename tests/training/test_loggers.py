"""Loggers: none of them ends a training run, and metrics.jsonl has each step once."""

import json

from lumen.training.loggers import JSONLLogger


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
