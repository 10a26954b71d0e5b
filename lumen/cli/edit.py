"""Commands that make pictures: edits of a class along the directions of a run."""

from hashlib import sha256

from lumen.cli.command import as_overrides, command, read_option
from lumen.cli.pictures import format_recipe, pop_sheet
from lumen.config.experiment import reload
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.paths import user_path


@command("edit", "RUN PHOTO|ID [class=sky out=FILE length=24 fit=stretch|crop|pad seed=0 key=value ...]")
def edit(positionals: list[str], options: dict[str, str]) -> int:
    """Write a sheet of edits by the directions of a run: rows are directions, columns are lengths.

    The layout is the label map of an image of the data set, or what a segmenter sees in a photo; the picture itself is
    generated.

    Options:
        class: Class that is edited; several with commas are edited at once; without it, a sheet of every class.
        out: Path of the sheet; in the run's folder `samples` by default.
        length: Longest edit; by default three times the length that directions learn at, 24 for 64 numbers of noise.
        fit: How a photo that is no square becomes one: stretched, cropped or padded.

    Examples:
        lumen edit runs/scenes/task=directions/seed0 scene-20000003 class=sky
        lumen edit runs/scenes/task=directions/seed0 photo.jpg class=sky,car
    """
    if len(positionals) != 2:
        raise UnknownName(f"a run, and a photo or the id of an image are needed; write: {edit.usage}.")
    run, source = user_path(positionals[0]), positionals[1]
    digest = sha256(" ".join([*positionals, *as_overrides(options)]).encode()).hexdigest()[:8]
    recipe = format_recipe(edit, positionals, options)
    out = pop_sheet(options, run / "samples" / f"edit-{digest}.png")
    names = [name for name in options.pop("class", "").split(",") if name]
    length = read_option("length", options.pop("length"), "float") if "length" in options else None
    if length is not None and not 0 < length < 1e6:
        raise BadConfig(f"length={length} is no length of an edit; give a number above 0, such as length=24.")
    fit = read_option("fit", options.pop("fit", "stretch"), 'Literal["stretch", "crop", "pad"]')
    from lumen.runs.directory import load_run_config

    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs.edit import save_edits

    save_edits(run, config, source, names, out, length, fit, recipe)
    print(f"image: {out}")
    return 0
