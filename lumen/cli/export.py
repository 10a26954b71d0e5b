"""Commands that take results out: the export of a run for other programs."""

from lumen.cli.command import as_overrides, command, read_option
from lumen.config.experiment import reload
from lumen.core.errors import UnknownName
from lumen.core.paths import user_path


@command("export", "RUN OUT [weights=averaged|raw push=USER/NAME key=value ...]")
def export(positionals: list[str], options: dict[str, str]) -> int:
    """Write a finished run as a folder that diffusers opens: ControlNet, layout.py, pipeline.py and a model card.

    Options:
        weights: Averaged weights, where the run had an EMA, or the raw ones.
        push: Repository on the Hugging Face Hub that the folder is uploaded to.

    Examples:
        lumen export runs/scenes/default/seed0 exported/
        lumen export runs/scenes/default/seed0 exported/ push=me/layouts
    """
    if len(positionals) != 2:
        raise UnknownName(f"a run and a folder are needed; write: {export.usage}.")
    run, out = map(user_path, positionals)
    weights = read_option("weights", options.pop("weights", "averaged"), 'Literal["averaged", "raw"]')
    push = options.pop("push", None)
    from lumen.runs.directory import load_run_config

    config = reload(load_run_config(run), as_overrides(options))
    from lumen.runs.export import export_run

    export_run(run, config, out, weights, push)
    print(f"folder: {out}")
    return 0
