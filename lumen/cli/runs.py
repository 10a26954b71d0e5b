"""Commands for one run: train, certify, evaluate, sample, and layouts of photos."""

from hashlib import sha256

from lumen.cli.command import as_overrides, command, single_argument
from lumen.config.experiment import load, reload
from lumen.core.errors import UnknownName
from lumen.core.paths import user_path


@command("train", "EXPERIMENT [key=value ...]")
def train(positionals: list[str], options: dict[str, str]) -> int:
    """Train and evaluate a run; the same command resumes it."""
    config = load(single_argument(positionals, "EXPERIMENT", train), as_overrides(options))
    from lumen.runs.directory import is_finished, load_finished, run_directory

    if is_finished(run_directory(config)):
        load_finished(run_directory(config), config)
    else:
        from lumen.runs import train as training

        training.train(config)
    return 0


@command("certify", "EXPERIMENT [steps=6 key=value ...]")
def certify(positionals: list[str], options: dict[str, str]) -> int:
    """Test that a run which is killed and resumed equals an uninterrupted one, bit by bit."""
    from lumen.runs.certify import certify_resume

    return 0 if certify_resume(single_argument(positionals, "EXPERIMENT", certify), as_overrides(options)) else 1


@command("eval", "RUN [key=value ...]")
def evaluate(positionals: list[str], options: dict[str, str]) -> int:
    """Evaluate a trained run again, with other sampling settings, metrics or seeds."""
    from lumen.runs.directory import load_run_config

    run = user_path(single_argument(positionals, "RUN", evaluate))
    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs import evaluate as evaluation

    evaluation.evaluate(run, config)
    return 0


@command("sample", 'RUN PHOTO "a prompt" [out=FILE seed=0 key=value ...]')
def sample(positionals: list[str], options: dict[str, str]) -> int:
    """Generate images from a prompt with the layout of a photo."""
    from lumen.runs.directory import load_run_config

    if len(positionals) != 3:
        raise UnknownName(f"a run, a photo and a prompt are needed; write: {sample.usage}.")
    run, photo, prompt = user_path(positionals[0]), user_path(positionals[1]), positionals[2]
    arguments = " ".join([*positionals, *as_overrides(options)])
    name = f"{photo.stem}-{sha256(arguments.encode()).hexdigest()[:8]}.png"
    out = user_path(options.pop("out", run / "samples" / name))
    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs.sample import save_samples

    save_samples(run, config, photo, prompt, out)
    print(f"image: {out}")
    return 0


@command("layout", "PHOTO ... [base=EXPERIMENT out=FILE key=value ...]")
def layout(positionals: list[str], options: dict[str, str]) -> int:
    """Write an image of each photo, its layout, and each component of the layout."""
    if not positionals:
        raise UnknownName(f"at least one PHOTO is needed, none was given; write: {layout.usage}.")
    out = user_path(options.pop("out", "layout.png"))
    config = load(options.pop("base", "coco_stuff"), as_overrides({"data": "scenes"} | options))
    from lumen.runs.sample import save_layouts

    save_layouts([user_path(photo) for photo in positionals], config, out)
    print(f"image: {out}")
    return 0
