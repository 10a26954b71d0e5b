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


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the second half of a sentence about an unknown name: the nearest name, and all names."""
    names = sorted(names)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    question = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{question}Available: {', '.join(names) or 'none'}."
