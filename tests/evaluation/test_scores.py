"""Scores per image: the table of a finished evaluation, and the partial scores of an interrupted one."""

import torch

from lumen.evaluation.scores import PartialScores, PerImageScores, load_scores, save_scores


def test_scores_file_returns_every_row_ordered_by_id(tmp_path):
    scores = {"scalar": torch.rand(3), "counts": torch.rand(3, 2, 4)}
    fewer = {"counts": torch.rand(3, 1, 4)}  # as a reference row with one sample per image has
    tables = {"test": scores, "real": fewer}
    tables = {kind: PerImageScores(["b", "a", "c"], ["B", "A", "C"], table) for kind, table in tables.items()}
    save_scores(tmp_path / "s.parquet", tables)
    test, real = load_scores(tmp_path / "s.parquet"), load_scores(tmp_path / "s.parquet", "real")
    assert test.id == ["a", "b", "c"] and test.caption == ["A", "B", "C"]
    assert all(torch.equal(test.scores[key], rows[[1, 0, 2]]) for key, rows in scores.items())
    assert set(real.scores) == {"counts"} and torch.equal(real.scores["counts"], fewer["counts"][[1, 0, 2]])


def test_partial_scores_of_an_incomplete_file_are_none(tmp_path):
    partial, rows = PartialScores(tmp_path), torch.rand(3, 2).T
    assert partial.load(["a", "b"]) is None
    partial.save(["a", "b"], {"miou": rows})
    assert torch.equal(partial.load(["a", "b"])["miou"], rows) and partial.load(["b", "a"]) is None
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert partial.load(["a", "b"]) is None
