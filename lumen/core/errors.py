"""The mistakes that a user can make: one class each, one sentence each."""

import difflib
from collections.abc import Iterable


class Mistake(Exception):
    """Something the user can put right; the command line prints its sentence and exits with 2."""


class UnknownName(Mistake):
    """A verb, experiment, component or run that does not exist."""


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


def known(name: str, names: Iterable[str]) -> str:
    """'did you mean ...? There are: ...', the second half of an unknown-name sentence."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}There are: {', '.join(names) or 'none'}."
