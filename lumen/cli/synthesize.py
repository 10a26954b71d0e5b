"""Commands that make training data: the generated images of a run as a data set."""

from lumen.cli.command import as_overrides, command, positive_int, read_names, single_argument
from lumen.config.experiment import reload
from lumen.core.errors import BadConfig
from lumen.core.paths import user_path


@command("synthesize", "RUN [out=DIR domains=night copies=1 images=100 key=value ...]")
def synthesize(positionals: list[str], options: dict[str, str]) -> int:
    """Write the training images of a run's data set as the run generates them, with their labels, as a data set.

    Files have the names and formats of the data set. What an interrupted command has written is verified and kept.

    Options:
        out: Directory of the new data set; it has to be named.
        domains: Domains that prompts name, such as night; without it, images keep their own captions.
        copies: Generated images of each training image and domain.
        images: Training images to generate; without it, all.

    Examples:
        lumen synthesize runs/scenes/default/seed0 out=night domains=[night]
        lumen synthesize runs/scenes/default/seed0 out=more copies=2 images=64 sampling.steps=8
    """
    run = user_path(single_argument(positionals, "RUN", synthesize))
    out, domains = options.pop("out", ""), read_names("domains", options.pop("domains", "[]"))
    count = options.pop("images", None)
    count = count and positive_int("images", count, 100_000_000)
    copies = positive_int("copies", options.pop("copies", "1"), 1000)
    if not out:
        raise BadConfig("lumen synthesize needs a directory for the images; add out=DIR.")
    from lumen.runs.directory import load_run_config

    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs.synthesize import synthesize as write_images

    number = write_images(run, config, user_path(out), list(dict.fromkeys(domains)), copies, count)
    print(f"{number} images with their labels: {out}")
    return 0
