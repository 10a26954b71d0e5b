"""Commands that make pictures: the samples of a run that a metric finds worst."""

from lumen.cli.command import command, positive_int, single_argument
from lumen.cli.pictures import format_recipe, pop_sheet
from lumen.cli.scored import load_scored_config, verify_options
from lumen.config.identity import sanitize
from lumen.core.paths import user_path
from lumen.core.picture_recipes import COMMAND
from lumen.core.registry import tasks

MAX_ROWS = 256  # of the sheet, which is made in memory


@command("worst", "RUN [metric=miou n=16 out=FILE --best data.root=DIR accelerator=cpu]")
def worst(positionals: list[str], options: dict[str, str]) -> int:
    """Show the samples of a run that a metric finds worst, each generated again from its own seed.

    Options:
        metric: A metric that single samples have values of, such as miou or lpips.
        n: Number of samples, up to 256.
        out: Path of the sheet of pictures; RUN/worst-METRIC.png by default.
        --best: The best samples instead.

    Examples:
        lumen worst runs/scenes/default/seed0 metric=si_depth n=8
        lumen worst runs/scenes/default/seed0 metric=lpips --best
    """
    from lumen.runs.worst import describe_sample, make_sheet, rank_samples

    run = user_path(single_argument(positionals, "RUN", worst))
    recipe = {COMMAND: format_recipe(worst, positionals, options)}
    metric, count = options.pop("metric", "miou"), positive_int("n", options.pop("n", "16"), MAX_ROWS)
    is_best = options.pop("--best", None) is not None
    out = pop_sheet(options, run / f"{'best' if is_best else 'worst'}-{sanitize(metric)}.png")
    verify_options(options, worst)
    config = load_scored_config(run, options)
    values = rank_samples(run, metric, count, is_best)
    print("\n".join(describe_sample(value, metric) for value in values), flush=True)
    if values and tasks.literal(config.task["name"], "output_kind", "images") == "images":
        from lumen.core.files import atomic_path
        from lumen.core.visualize import save_png

        sheet = make_sheet(run, config, values, metric)
        with atomic_path(out) as draft:
            save_png(sheet, draft, recipe)
        print(f"image: {out}")
    return 0
