"""Commands that run nothing: names for configs, and the config of a run."""

from lumen.cli.command import as_overrides, command, single_argument
from lumen.config.experiment import dump, list_experiments, load
from lumen.core.errors import BadConfig


@command("list")
def list_names(positionals: list[str], options: dict[str, str]) -> int:
    """List all components with their arguments, all experiments and all tables."""
    from lumen.config.schema import REGISTRIES, SLOTS
    from lumen.core.registry import launchers
    from lumen.sweeps.table import table_names

    if positionals or options:
        raise BadConfig(f"lumen list does not take {' '.join([*positionals, *as_overrides(options)])}.")
    for key, registry in (REGISTRIES | {"launcher": launchers}).items():
        print(f"{key}=")
        for name in registry.names():
            prefix = key if key in SLOTS else name if key == "launcher" else f"{key}.{name}"
            arguments = " ".join(f"{prefix}.{argument}" for argument in registry.arguments(name))
            print(f"  {name:16s} {registry.summary(name)}")
            if arguments:
                print(f"{'':19s}{arguments}")
    print(f"experiments: {', '.join(list_experiments())}\ntables: {', '.join(table_names())}")
    return 0


@command("show", "EXPERIMENT [--cost key=value ...]")
def show(positionals: list[str], options: dict[str, str]) -> int:
    """Print the config that would run, or with --cost its parameters, FLOPs, memory and disk."""
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
