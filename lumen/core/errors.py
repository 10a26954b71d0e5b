"""Errors that a user can correct: one class per mistake, one sentence per error."""

import difflib
from collections.abc import Iterable


class Note(UserWarning):
    """Remark of LUMEN's own on a command that goes on. The command line prints its sentence."""


SHORTAGES = ("out of memory", "allocate memory", "enough memory", "failed to map segment", "start new thread")
SHORTAGES += ("bad_alloc", "alloc_failed", "could not create a primitive")  # of C++, cuBLAS and oneDNN


class Mistake(Exception):
    """Error that the user can correct. The command line prints its sentence and exits with 2."""


class UnknownName(Mistake):
    """Verb, experiment, component or run that does not exist."""


class BadPlugin(Mistake):
    """Component whose source breaks the rules of its registry."""


class BadConfig(Mistake):
    """Keys or values that no experiment can have. The message lists all of them."""


class DatasetMissing(Mistake):
    """Data set, or part of one, that is not in the directory that the config names."""


class BadSample(Mistake):
    """File of a data set that cannot be used."""


class BadFile(Mistake):
    """File of a run, of the cache or of a table that is damaged, or does not hold what it should."""


class WeightsMissing(Mistake):
    """Weights that are nowhere, cannot be read, or belong to another network."""


class BadSize(Mistake):
    """Image size that a network cannot take."""


class BasisMismatch(Mistake):
    """Layout basis that was fitted to other features than those that it is used with."""


class BadCheckpoint(Mistake):
    """Checkpoint that is truncated, holds code, or belongs to another run."""


class RunBusy(Mistake):
    """Run directory that another process is writing, or that holds another config."""


class RunMissing(Mistake):
    """Run directory that was moved or removed while a command was writing to it."""


class Diverged(Mistake):
    """Training step with a number that is not finite, or with a change of a frozen parameter."""


def explain_shortage(error: Exception) -> str | None:
    """Return the sentence for an error of Python, PyTorch or the loader of libraries about memory; None for others."""
    reason = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not any(words in reason.lower() for words in SHORTAGES):
        return None
    kind = f"{type(error).__name__}: {reason}"[:160].rstrip(".: ")
    return f"memory ran short ({kind}); repeat the command with a smaller batch or size, fewer workers, or more memory."


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the names that are most like a name; of equals the one in the fewest groups comes first."""
    return sorted(names, key=lambda other: (-likeness(name, other), other.count("."), other))[:count]


def likeness(name: str, other: str) -> float:
    """Return how much a name is like another, from 0 to 1; without a group it may be `guidance` for short."""
    return difflib.SequenceMatcher(None, name, other if "." in name else other.rpartition(".")[2]).ratio()


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the second half of a sentence about an unknown name: the nearest name, and all names."""
    names = sorted(names)
    return f"{_question(name, names)}Available: {', '.join(names) or 'none'}."


def short_suggestion(name: str, names: Iterable[str], listing: str) -> str:
    """Return the second half of a sentence about an unknown name of many: the nearest ones, and who lists all."""
    names = sorted(names)
    *others, last = nearest(name, names)
    article = "The" if (question := _question(name, names)) else "the"
    return f"{question}{article} nearest are {', '.join(others)} and {last}; `{listing}` lists all."


def _question(name: str, names: list[str]) -> str:
    closest = [other for other in nearest(name, names, 1) if likeness(name, other) >= 0.5]
    return f"did you mean '{closest[0]}'? " if closest else ""
