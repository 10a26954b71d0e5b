"""Commands that run nothing: help, names for configs, the config of a run, version, completion."""

from lumen import __version__
from lumen.cli.command import as_overrides, command, single_argument
from lumen.config.experiment import dump, load
from lumen.core.commit import read_commit
from lumen.core.errors import BadConfig, UnknownName


@command("list", "[KIND|NAME]")
def list_names(positionals: list[str], options: dict[str, str]) -> int:
    """List all components, experiments and tables; those of one kind, or one of them, with what its arguments may be.

    Options:
        KIND: backbones, data, conditionings, generators, tasks, metrics, launchers, experiments or tables.
        NAME: A component, such as dino.

    Examples:
        lumen list backbones
        lumen list dino
    """
    if len(positionals) > 1 or options:
        raise BadConfig(f"lumen list takes one kind or name, not {' '.join([*positionals, *as_overrides(options)])}.")
    from lumen.cli.listing import list_all, list_topic

    print(list_topic(positionals[0]) if positionals else list_all())
    return 0


@command("show", "EXPERIMENT [--cost key=value ...]")
def show(positionals: list[str], options: dict[str, str]) -> int:
    """Print the config that would run, or with --cost its parameters, FLOPs, memory and disk.

    Options:
        --cost: Print a forecast instead of the config.

    Examples:
        lumen show scenes backbone=clip
        lumen show coco_stuff --cost
    """
    with_cost = options.pop("--cost", None) is not None
    config = load(single_argument(positionals, "EXPERIMENT", show), as_overrides(options), complete=False)
    if with_cost:
        from lumen.runs.cost.report import format_cost

        print(format_cost(config))
        return 0
    import yaml

    from lumen.runs.directory import run_directory

    print(yaml.safe_dump(dump(config), sort_keys=False), end="")
    print(f"# run directory: {run_directory(config)}")
    return 0


@command("help", "[VERB|KEY|NAME]")
def print_help(positionals: list[str], options: dict[str, str]) -> int:
    """Explain a verb, a key of a config, a group of keys, a component, an experiment or a table.

    Options:
        VERB: A verb of lumen, such as train; `lumen VERB --help` does the same.
        KEY: A key such as lr or sampling.steps, a group such as sampling, or `keys` for all of them.
        NAME: A component such as dino, an argument such as backbone.size, an experiment or a table.

    Examples:
        lumen help train
        lumen help lr
    """
    if options:
        raise BadConfig(f"lumen help takes names, not {' '.join(as_overrides(options))}; write: {print_help.usage}.")
    from lumen.cli.help import explain, overview

    print(explain(" ".join(positionals)) if positionals else overview())
    return 0


@command("completion", "SHELL [--line]")
def print_completion(positionals: list[str], options: dict[str, str]) -> int:
    """Print the script by which bash, zsh or fish complete verbs, experiments, keys, values and run directories.

    Options:
        SHELL: bash, zsh or fish.
        --line: Print how the command line in place of SHELL may be continued, as the scripts ask.

    Examples:
        source <(lumen completion bash)
        lumen completion fish | source
    """
    from lumen.cli.completion import SHELLS, complete, shell_script

    word = single_argument(positionals, "SHELL", print_completion)
    if "--line" in options:
        print("".join(f"{line}\n" for line in complete(word)), end="")
        return 0
    if word not in SHELLS or len(options) > 0:
        raise UnknownName(f"lumen completes in {', '.join(SHELLS)}, not in {word}; write: lumen completion bash.")
    print(shell_script(word), end="")
    return 0


@command("version")
def print_version(positionals: list[str], options: dict[str, str]) -> int:
    """Print the version, and the commit where LUMEN is a clone; `lumen --version` does the same.

    Examples:
        lumen version
        lumen --version
    """
    if positionals or options:
        raise BadConfig(f"lumen version takes nothing, not {' '.join([*positionals, *as_overrides(options)])}.")
    commit = read_commit()
    print(f"lumen {__version__}{f' ({commit})' if commit else ''}")
    return 0
