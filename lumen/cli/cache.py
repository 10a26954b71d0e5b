"""The cache: filled, listed, checked, cut."""

from pathlib import Path

from lumen.cli.command import Verb, one, strings, usage, verb
from lumen.config import experiment as configs
from lumen.core.errors import BadConfig


@verb("cache build")
def build_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache build EXPERIMENT [key=value ...]: makes the latents and layouts that its runs would look at"""
    config = configs.load(one(words, "EXPERIMENT", build_cache), strings({"cache": "always"} | flags))
    from lumen.runs.precompute import build

    build(config)
    return 0


@verb("cache ls")
def list_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache ls [runs=DIR]: what is kept, how much of it, and when it was used last"""
    from lumen.data.cache import amount, stock

    shelves = stock(_cache(words, flags, list_cache))
    print("\n".join([*map(str, shelves), f"{amount(sum(each.size for each in shelves))} in all"]))
    return 0


@verb("cache verify")
def verify_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache verify [runs=DIR]: reads all that is kept; what is damaged is removed, to be made anew"""
    from lumen.data.cache import damaged

    bad = list(damaged(_cache(words, flags, verify_cache)))
    print("\n".join([*(f"removed: {path}" for path in bad), f"{len(bad)} damaged"]))
    return 1 if bad else 0


@verb("cache prune")
def prune_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache prune [gb=0 runs=DIR]: removes what has not been used longest, until gb are left"""
    from lumen.data.cache import prune

    limit = flags.pop("gb", "0")
    try:
        gone = list(prune(_cache(words, flags, prune_cache), int(float(limit) * 1e9)))
    except ValueError:
        raise BadConfig(f"gb must be a number of gigabytes, not '{limit}'.") from None
    print("\n".join([*(f"removed: {each}" for each in gone), f"{len(gone)} removed"]))
    return 0


def _cache(words: list[str], flags: dict[str, str], asking: Verb) -> Path:
    if words or flags.keys() - {"runs"}:
        raise BadConfig(f"not {[*words, *strings(flags)]}; write: {usage(asking)}.")
    return Path(flags.get("runs", "runs")) / "cache"
