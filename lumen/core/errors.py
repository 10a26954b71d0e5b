"""The mistakes that a user can make: one class each, one sentence each."""

import difflib
from collections.abc import Iterable


class Mistake(Exception):
    """Something the user can put right; the command line prints its sentence and exits with 2."""


class UnknownName(Mistake):
    """A verb, experiment, component or run that does not exist."""


class BadPlugin(Mistake):
    """A component whose file cannot be used, or whose name another component has."""


class BadConfig(Mistake):
    """Keys or values that no experiment can have; the message holds every one of them."""


class DatasetMissing(Mistake):
    """A data set, or a part of one, is not where it was said to be."""


class BadSample(Mistake):
    """One file of a data set that cannot be used."""


class WeightsMissing(Mistake):
    """Weights that are neither in the folder named nor on the hub."""


class BadSize(Mistake):
    """An image size that a network cannot take."""


class BasisMismatch(Mistake):
    """A layout basis that was fitted on other features than those it is used with."""


class BadCheckpoint(Mistake):
    """A checkpoint that is truncated, holds code, or belongs to another run."""


class RunBusy(Mistake):
    """A run folder that another process is writing, or that holds another config."""


class Diverged(Mistake):
    """Training produced a number that is not finite, or moved a frozen parameter."""


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return the second half of a sentence about an unknown name: the nearest name, and all names."""
    names = sorted(names)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    question = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{question}Available: {', '.join(names) or 'none'}."
