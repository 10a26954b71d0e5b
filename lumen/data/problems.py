"""Sentences about the files of a data set: many of a kind become a single sentence."""

from collections.abc import Iterable

from lumen.core.text import escape_line

MAX_SENTENCES = 5  # of a kind


def summarize(sentences: Iterable[str]) -> list[str]:
    """Return sentences by their kind; more than five of a kind become their number and the first of them.

    Sentences are of a kind if they end in the same next step, which is the part behind the last semicolon.
    """
    kinds: dict[str, list[str]] = {}
    for sentence in sentences:
        kinds.setdefault(sentence.rpartition(";")[2], []).append(sentence)
    lines = []
    for alike in kinds.values():
        lines += alike if len(alike) <= MAX_SENTENCES else [f"{len(alike):,} like this one: {alike[0]}"]
    return [escape_line(line) for line in lines]
