"""Commands that make pictures: samples of a run, and layouts of photos."""

import os
import shlex
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumen.cli.command import Command, as_overrides, command, positive_int, read_option
from lumen.config.checks import read_literal
from lumen.config.experiment import load, reload
from lumen.config.schema import DEFAULT_TASK, Config
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.paths import user_path
from lumen.core.picture_recipes import COMMAND, verify_replaceable
from lumen.core.registry import tasks

if TYPE_CHECKING:
    from lumen.runs.picture_files import PictureFiles


@command(
    "sample",
    'RUN PHOTO "a prompt" ["another prompt" ... layout=FILE style=PHOTO seeds=4 out=FILE|DIR fit=stretch|crop|pad '
    "seed=0 key=value ...]",
)
def sample(positionals: list[str], options: dict[str, str]) -> int:
    """Generate images from prompts with the layout of a photo; out=DIR writes each image as a file.

    A run of the task rearranger takes no prompt. Its photo may be a label map that was drawn by hand, if the run learnt
    from label maps: class ids, or the colours that a wrong one makes it list. RUN may be `scenes`: a ControlNet that
    comes with LUMEN, if the installation has it.

    Options:
        layout: Layout in place of the photo's own: a layout.npy that out=DIR or the studio wrote, edited or not.
        style: Of a run without prompts, the photo that is rearranged, in place of generated samples.
        seeds: Of a run without prompts, the number of generated samples that are rearranged; 4 by default.
        out: Path of a sheet of all images, or of a directory for one file of each.
        fit: How a photo that is no square becomes one: stretched, cropped or padded.

    Examples:
        lumen sample runs/scenes/default/seed0 photo.jpg "a red house under a night sky"
        lumen sample runs/scenes/default/seed0 photo.jpg "a red house" seed=1 out=samples/
    """
    from lumen.runs.directory import load_run_config
    from lumen.runs.shipped import SHIPPED_RUN, find_run

    if positionals and os.path.isdir(user_path(positionals[0])) and not _is_prompted(user_path(positionals[0])):
        return _sample_rearranged(positionals, options)
    if len(positionals) < 3:
        raise UnknownName(f"a run, a photo and a prompt are needed; write: {sample.usage}.")
    run, photo, prompts = find_run(positionals[0]), user_path(positionals[1]), positionals[2:]
    arguments = " ".join([*positionals, *as_overrides(options)])
    folder = Path("samples") if run == SHIPPED_RUN else run / "samples"
    default = folder / f"{photo.stem}-{sha256(arguments.encode()).hexdigest()[:8]}.png"
    recipe, out, fit = format_recipe(sample, positionals, options), options.pop("out", str(default)), _pop_fit(options)
    layout_file = user_path(options.pop("layout")) if "layout" in options else None
    config = reload(load_run_config(run), as_overrides(options))
    files = _picture_files(out, [photo], recipe, config)
    from lumen.runs.sample import save_samples

    save_samples(run, config, photo, prompts, files, fit, layout_file)
    print(f"{'images' if files.is_directory else 'image'}: {files.path}")
    return 0


def _sample_rearranged(positionals: list[str], options: dict[str, str]) -> int:
    """Write images that a run without prompts generates for a layout."""
    from lumen.runs.directory import load_run_config

    if len(positionals) != 2:
        raise UnknownName(
            f"{positionals[0]} is of a task without prompts, and takes one layout; write: lumen sample RUN MASK|PHOTO "
            "[style=PHOTO seeds=4]."
        )
    run, drawing = map(user_path, positionals)
    digest = sha256(" ".join([*positionals, *as_overrides(options)]).encode()).hexdigest()[:8]
    default = run / "samples" / f"{drawing.stem}-{digest}.png"
    if {"style", "seeds"} <= options.keys():
        raise BadConfig(
            "seeds= counts generated samples, and style= names a photo in their place; leave one of them out."
        )
    recipe, out, fit = format_recipe(sample, positionals, options), options.pop("out", str(default)), _pop_fit(options)
    style = user_path(options.pop("style")) if "style" in options else None
    count = positive_int("seeds", options.pop("seeds", "4"), 1000)
    config = reload(load_run_config(run), as_overrides(options))
    files = _picture_files(out, [drawing, *([style] if style else [])], recipe, config)
    from lumen.runs.rearrangement import save_rearrangements

    save_rearrangements(run, config, drawing, style, count, files, fit)
    print(f"{'images' if files.is_directory else 'image'}: {files.path}")
    return 0


def _is_prompted(run: Path) -> bool:
    """Return whether samples of a run follow prompts."""
    from lumen.runs.directory import load_run_config

    tree: dict[str, Any] = load_run_config(run)
    return read_literal(tasks, tree.get("task", {}).get("name", DEFAULT_TASK), "is_prompted", True)


@command("layout", "RUN|PHOTO ... [base=EXPERIMENT out=FILE|DIR fit=stretch|crop|pad key=value ...]")
def layout(positionals: list[str], options: dict[str, str]) -> int:
    """Write an image of photos, their layouts, and each component; with the basis of a run if one is named first.

    Options:
        base: Experiment whose config is used where no run is named; coco_stuff by default.
        out: Path of a sheet of all images, or of a directory for one file of each; layout.png by default.
        fit: How a photo that is no square becomes one: stretched, cropped or padded.

    Examples:
        lumen layout photo.jpg base=scenes backbone=dino
        lumen layout runs/scenes/default/seed0 photo.jpg
    """
    run = user_path(positionals[0]) if positionals and os.path.isdir(user_path(positionals[0])) else None
    photos = [user_path(photo) for photo in positionals[run is not None :]]
    if not photos:
        raise UnknownName(f"at least one PHOTO is needed, none was given; write: {layout.usage}.")
    recipe, out, fit = format_recipe(layout, positionals, options), options.pop("out", "layout.png"), _pop_fit(options)
    if run is None:
        config = load(options.pop("base", "coco_stuff"), as_overrides({"data": "scenes"} | options))
    else:
        from lumen.runs.directory import load_run_config

        if "base" in options:
            raise BadConfig(f"base={options['base']} cannot stand beside a run, whose config is used; leave it out.")
        config = reload(load_run_config(run), as_overrides(options))
    files = _picture_files(out, photos, recipe, config)
    from lumen.runs.sample import save_layouts

    save_layouts(photos, config, files, run, fit)
    print(f"{'images' if files.is_directory else 'image'}: {files.path}")
    return 0


def _pop_fit(options: dict[str, str]) -> str:
    return read_option("fit", options.pop("fit", "stretch"), 'Literal["stretch", "crop", "pad"]')


def _picture_files(out: str, photos: list[Path], recipe: str, config: Config) -> "PictureFiles":
    """Return the place of pictures: a directory if it exists as one, ends with "/", or has no suffix and is no file.

    Raises:
        BadConfig: It is one of the photos, which the pictures would replace.
    """
    from lumen.runs.picture_files import PictureFiles

    path = user_path(out)
    if path.exists() and any(photo.exists() and photo.samefile(path) for photo in photos):
        raise BadConfig(f"out={out} is a photo that the command reads, and would be replaced; choose another file.")
    is_directory = path.is_dir() or out.endswith("/") or not (path.suffix or path.is_file())
    return PictureFiles(path, is_directory, {COMMAND: recipe, "seed": str(config.seed)})


def pop_sheet(options: dict[str, str], default: Path) -> Path:
    """Return the path of a sheet of pictures: `default`, whose name is LUMEN's, or that which a user gives.

    Raises:
        Mistake: The sheet would replace a file that LUMEN did not make.
    """
    if "out" not in options:
        return default
    path = user_path(options.pop("out"))
    verify_replaceable(path)
    return path


def format_recipe(caller: Command, positionals: list[str], options: dict[str, str]) -> str:
    """Return the command as a picture holds it, without directories of this machine."""
    words = [_shorten(word) for word in positionals]
    words += [key if key.startswith("--") else f"{key}={_shorten(value)}" for key, value in options.items()]
    return shlex.join(["lumen", caller.verb, *words])


def _shorten(word: str) -> str:
    """Return an absolute path relative to this directory, or its end if it lies elsewhere; other words as they are."""
    path = user_path(word)
    if not path.is_absolute():
        return word
    if path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(Path(*path.parts[-3:])) if path.is_dir() else path.name
