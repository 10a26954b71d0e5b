"""Commands for several runs: two of them compared."""

from pathlib import Path
from typing import TYPE_CHECKING

from lumen.cli.columns import format_columns
from lumen.cli.command import command, read_names, read_option
from lumen.cli.pictures import format_recipe, pop_sheet
from lumen.cli.scored import load_scored_config, verify_options
from lumen.core.errors import Mistake, UnknownName
from lumen.core.hashing import hash_json
from lumen.core.paths import user_path
from lumen.core.picture_recipes import COMMAND
from lumen.core.registry import tasks
from lumen.evaluation.headings import heading
from lumen.evaluation.keys import higher_is_better

if TYPE_CHECKING:
    from lumen.sweeps.compare import Difference, SamplePair


@command("compare", "RUN RUN [metrics=A,B n=6 out=FILE data.root=DIR accelerator=cpu]")
def compare(positionals: list[str], options: dict[str, str]) -> int:
    """Compare two runs: the paired difference in each metric, and the images on which they differ most.

    A run may also be an evaluation, RUN/eval/FLAGS. The interval is a bootstrap over the images that both were scored
    on. It says nothing about other training seeds. The pictures are generated again from the seeds that were scored.

    Options:
        metrics: Metrics to compare; the first one of single samples selects the images.
        n: Number of images; n=0 makes no sheet of them.
        out: Path of the sheet; compare-HASH.png in the first run's directory by default.

    Examples:
        lumen compare runs/scenes/default/seed0 runs/scenes/backbone=clip/seed0
        lumen compare runs/scenes/default/seed0 runs/scenes/backbone=clip/seed0 metrics=miou n=0

    Returns:
        0, or 1 if the images could not be generated again; 2 after a mistake.
    """
    if len(positionals) != 2:
        raise UnknownName(f"two runs are needed, {len(positionals)} given; write: {compare.usage}.")
    runs, recipe = tuple(map(user_path, positionals)), {COMMAND: format_recipe(compare, positionals, options)}
    chosen = read_names("metrics", options.pop("metrics", ""))
    count = read_option("n", options.pop("n", "6"), "Annotated[int, Range(0, 10_000)]")
    out = pop_sheet(options, runs[0] / f"compare-{hash_json(str(runs[1]))[:8]}.png")
    verify_options(options, compare)
    from lumen.sweeps.compare import compare_runs

    differences = compare_runs(runs, chosen)
    print("\n".join(_format(differences, runs)), flush=True)
    names = [difference.key.metric for difference in differences if difference.interval is not None]
    return _show_images(runs, names, count, options, out, recipe) if count and names else 0


def _show_images(
    runs: tuple[Path, Path], names: list[str], count: int, options: dict[str, str], out: Path, recipe: dict[str, str]
) -> int:
    """Print the images on which two runs differ most, and write a sheet of them. Return the exit code."""
    from lumen.core.files import atomic_path
    from lumen.core.visualize import save_png
    from lumen.sweeps.compare import describe_pair, make_sheet

    metric, pairs = _find_pairs(runs, names, count)
    if not pairs:
        return 0
    print("\n".join(["", f"images that differ most in {metric}:", *(describe_pair(pair, metric) for pair in pairs)]))
    configs = tuple(load_scored_config(run, options) for run in runs)
    if any(tasks.literal(config.task["name"], "output_kind", "images") != "images" for config in configs):
        return 0
    try:
        sheet = make_sheet(runs, configs, pairs, metric)
    except Mistake as mistake:
        print(f"no sheet of these images: {mistake}")
        return 1
    with atomic_path(out) as draft:
        save_png(sheet, draft, recipe)
    print(f"image: {out}")
    return 0


def _find_pairs(runs: tuple[Path, Path], names: list[str], count: int) -> "tuple[str, list[SamplePair]]":
    """Return the first metric that single samples have values of, and the samples that differ most in it."""
    from lumen.sweeps.compare import find_pairs

    for name in names:
        try:
            return name, find_pairs(runs, name, count)
        except Mistake:  # it compares distributions
            continue
    return "", []


def _format(differences: "list[Difference]", runs: tuple[Path, Path]) -> list[str]:
    """Return the lines of a table of differences, and what its letters and words mean."""
    rows = [["", "A", "B", "B - A", "95 % interval", ""]]
    for d in differences:
        interval = "" if d.interval is None else "[{:+.3g}, {:+.3g}]".format(*d.interval)
        numbers = [f"{value:.4g}" for value in d.values]
        name = f"{heading(d.key)} {'↑' if _higher_is_better(d) else '↓'}"
        rows.append([name, *numbers, f"{d.values[1] - d.values[0]:+.3g}", interval, _verdict(d)])
    num_images = max((d.num_images for d in differences), default=0)
    scope = [f"intervals: paired bootstrap over {num_images} images, one training seed each"] if num_images else []
    lines = format_columns(rows, None, numbers=range(1, 5))
    return [*(f"{name}: {run}" for name, run in zip("AB", runs, strict=True)), "", *lines, *scope]


def _verdict(difference: "Difference") -> str:
    """Return the words for what the interval of a difference shows."""
    if difference.interval is None:
        return ""
    if difference.is_different is None:
        return "too few images to tell"
    if not difference.is_different:
        return "no difference"
    return f"{'B' if (difference.interval[0] > 0) == _higher_is_better(difference) else 'A'} is better"


def _higher_is_better(difference: "Difference") -> bool:
    return difference.key.kind == "test" and higher_is_better(difference.key)
