"""Chains: rows that learn from the images of another run, and the overrides of each run of such a row."""

from collections.abc import Iterable, Sequence

from lumen.config.schema import MIXING_KEYS, NON_RESULT_KEYS

SYNTHETIC_PREFIX = "synthetic."  # of an override of the runs that generate the images of a table
# Keys and groups that the run that generates images and the run that learns from them have in common.
SHARED_KEYS = {key for key in NON_RESULT_KEYS if not key.startswith("task.")} | {
    "data",
    "diffusion",
    "size",
    "precision",
    "devices",
    "nodes",
    "memory",
}


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.partition("=")[0]


def merge(*groups: Iterable[str]) -> list[str]:
    """Return the overrides of all groups; of one key, those of the earliest group that has it."""
    merged: list[str] = []
    for group in groups:
        keys = set(map(key_of, merged))
        merged += [override for override in group if key_of(override) not in keys]
    return merged


def select_learning(overrides: Sequence[str], is_mixed: bool) -> list[str]:
    """Return those of a table's overrides that a run takes which learns from real and generated images.

    Args:
        is_mixed: Whether there are generated images; without any, no key about them has a meaning.
    """
    own = [override for override in overrides if not override.startswith(SYNTHETIC_PREFIX)]
    return own if is_mixed else [override for override in own if key_of(override) not in MIXING_KEYS]


def select_generating(overrides: Sequence[str]) -> list[str]:
    """Return those of a table's overrides that a run takes which generates images."""
    own = [o.removeprefix(SYNTHETIC_PREFIX) for o in overrides if o.startswith(SYNTHETIC_PREFIX)]
    shared = [o for o in overrides if key_of(o) in SHARED_KEYS or key_of(o).partition(".")[0] in SHARED_KEYS]
    return merge(own, shared)
