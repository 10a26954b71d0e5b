"""Commands for the cache: build, ls, verify, prune."""

from pathlib import Path

from lumen.cli.command import Command, as_overrides, command, read_option, single_argument
from lumen.config.experiment import load
from lumen.core.errors import BadConfig
from lumen.core.paths import user_path


@command("cache build", "EXPERIMENT [key=value ...]")
def build_cache(positionals: list[str], options: dict[str, str]) -> int:
    """Compute the outputs of frozen networks that an experiment's runs would cache.

    Examples:
        lumen cache build scenes
        lumen cache build coco_stuff data.root=/data/coco backbone=dino
    """
    config = load(single_argument(positionals, "EXPERIMENT", build_cache), as_overrides({"cache": "always"} | options))
    from lumen.runs.precompute import precompute

    precompute(config)
    return 0


@command("cache ls", "[runs=DIR]")
def list_cache(positionals: list[str], options: dict[str, str]) -> int:
    """List the stores of the cache with their size and time of last use.

    Examples:
        lumen cache ls
        lumen cache ls runs=/scratch/runs
    """
    from lumen.data.cache import format_bytes
    from lumen.data.inventory import list_stores

    stores = list_stores(_cache_directory(positionals, options, list_cache))
    total = format_bytes(sum(store.num_bytes for store in stores))
    print("\n".join([*map(str, stores), f"{total} in all"]))
    return 0


@command("cache verify", "[runs=DIR]")
def verify_cache(positionals: list[str], options: dict[str, str]) -> int:
    """Read the whole cache and remove damaged files, which runs write again.

    Examples:
        lumen cache verify
        lumen cache verify runs=/scratch/runs

    Returns:
        0 if nothing was damaged, else 1.
    """
    from lumen.data.inventory import remove_damaged_files

    paths = list(remove_damaged_files(_cache_directory(positionals, options, verify_cache)))
    print("\n".join([*(f"removed: {path}" for path in paths), f"{len(paths)} damaged"]))
    return 1 if paths else 0


@command("cache prune", "[gb=0 runs=DIR]")
def prune_cache(positionals: list[str], options: dict[str, str]) -> int:
    """Remove the least recently used stores until the cache takes at most gb gigabytes.

    Options:
        gb: Gigabytes that remain; 0 removes all.

    Examples:
        lumen cache prune
        lumen cache prune gb=50
    """
    from lumen.data.inventory import prune

    limit = read_option("gb", options.pop("gb", "0"), "Annotated[float, Range(0, 1_000_000_000)]")
    stores = list(prune(_cache_directory(positionals, options, prune_cache), int(limit * 1e9)))
    lines = [f"{'in use, so not removed' if store.is_in_use else 'removed'}: {store}" for store in stores]
    print("\n".join([*lines, f"{sum(not store.is_in_use for store in stores)} removed"]))
    return 0


def _cache_directory(positionals: list[str], options: dict[str, str], caller: Command) -> Path:
    if unknown := [*positionals, *as_overrides({key: value for key, value in options.items() if key != "runs"})]:
        raise BadConfig(f"lumen {caller.verb} does not take {' '.join(unknown)}; write: {caller.usage}.")
    return user_path(options.get("runs", "runs")) / "cache"
