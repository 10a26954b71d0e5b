"""Commands for one run: train, certify, evaluate."""

from lumen.cli.command import as_overrides, command, single_argument
from lumen.config.experiment import load, reload
from lumen.core.paths import user_path


@command("train", "EXPERIMENT [key=value ...]")
def train(positionals: list[str], options: dict[str, str]) -> int:
    """Train and evaluate a run; the same command resumes it.

    The run directory is runs/EXPERIMENT/FLAGS/seedK. What is printed is also in its log.txt.

    Examples:
        lumen train scenes backbone=dinov2
        lumen train coco_stuff data.root=/data/coco devices=8 metrics=[miou,lpips]

    Returns:
        0 once the run is finished; 2 after a mistake; 75 if a signal or stop_after stopped it: repeat the command; 130
        after Ctrl-C.
    """
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
    """Test that a run which is killed and resumed equals an uninterrupted one, bit by bit.

    Options:
        steps: Optimiser steps of the run, 6 or more.

    Examples:
        lumen certify scenes
        lumen certify scenes backbone=sd steps=12 batch=4

    Returns:
        0 if all is equal, 1 if something differs, 2 after a mistake.
    """
    from lumen.runs.certify import certify_resume

    return 0 if certify_resume(single_argument(positionals, "EXPERIMENT", certify), as_overrides(options)) else 1


@command("eval", "RUN [key=value ...]")
def evaluate(positionals: list[str], options: dict[str, str]) -> int:
    """Evaluate a trained run again, with other sampling settings, metrics or seeds.

    The results are in RUN/eval/FLAGS. `lumen help KEY` says whether lumen eval may change a key.

    Examples:
        lumen eval runs/scenes/default/seed0 sampling.steps=30
        lumen eval runs/scenes/default/seed0 metrics=[fid,lpips] measure.images=200

    Returns:
        0 once the evaluation is finished; 2 after a mistake; 75 if a signal stopped it; 130 after Ctrl-C.
    """
    from lumen.runs.directory import load_run_config

    run = user_path(single_argument(positionals, "RUN", evaluate))
    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs import evaluate as evaluation

    evaluation.evaluate(run, config)
    return 0
