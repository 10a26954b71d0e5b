"""Sentences about faults: few for many files, and nothing in them that steers a terminal."""

import pytest

from datamodules.coco_stuff import CocoStuff
from lumen.__main__ import main
from lumen.core.text import escape, escape_line, is_unicode
from lumen.data.problems import summarize


@pytest.mark.parametrize("count", [1, 5, 6, 118_287])
def test_many_problems_of_a_kind_become_one_with_their_number(count):
    problems = [f"{i}.jpg has no label map; restore the map." for i in range(count)] + ["x is cut; copy it again."]
    lines = summarize(problems)
    assert lines == (problems if count <= 5 else [f"{count:,} like this one: {problems[0]}", problems[-1]])


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\rb\x08", r"a\rb\x08"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("\u2028\udcff", r"\u2028\udcff"),
        ("häuser 狗 🐶 שלום\u200d", "häuser 狗 🐶 שלום\u200d"),
    ],
)
def test_text_for_a_terminal_has_no_control_characters(text, shown_as):
    assert escape(text) == shown_as and escape_line(f"{text}\n") == rf"{shown_as}\n"
    assert escape("two\nlines") == "two\nlines" and is_unicode(text) == ("\udcff" not in text)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb\rc", "\u202egnp", "a\x9bb", "a\x07"])
def test_check_prints_no_control_characters(name, tmp_path, capsys):
    CocoStuff.fake(tmp_path)
    image = next(tmp_path.glob("images/val2017/*.jpg"))
    image.rename(image.with_name(f"{name}.jpg"))
    assert main(["data", "check", "coco_stuff", f"root={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert escape_line(name) in printed and all(line == escape_line(line) for line in printed.split("\n"))


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\rc", "\u202egnp"])
def test_mistake_prints_no_control_characters(name, tmp_path, capsys):
    assert main(["layout", str(tmp_path / f"{name}.jpg")]) == 2
    printed = capsys.readouterr().err
    assert escape_line(name) in printed and printed == escape(printed) and printed.count("\n") == 1


@pytest.mark.parametrize("flag", ["root", "data.root"])
def test_check_lists_a_sentence_for_a_kind_or_every_problem(flag, tmp_path, capsys):
    CocoStuff.fake(tmp_path)
    next(tmp_path.glob("stuffthingmaps/train2017/*.png")).unlink()
    for path in [*tmp_path.glob("images/*/*.jpg")]:
        path.write_bytes(path.read_bytes()[:200])
    command = ["data", "check", "coco_stuff", f"{flag}={tmp_path}"]
    assert main(command) == 1
    short = capsys.readouterr().out
    assert main([*command, "--all"]) == 1
    complete = capsys.readouterr().out
    assert short.count("problem:") == 2 and "8 like this one" in short and "--all" in short
    assert complete.count("problem:") == 9 and "like this one" not in complete
