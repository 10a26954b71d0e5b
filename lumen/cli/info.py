"""What there is, and what would run."""

from lumen.cli.command import one, strings, verb
from lumen.config import experiment as configs
from lumen.core.errors import BadConfig


@verb("list")
def list_names(words: list[str], flags: dict[str, str]) -> int:
    """lumen list: what can be named in a config"""
    from lumen.config.schema import REGISTRIES, SLOTS
    from lumen.core.registry import launchers
    from lumen.sweeps.table import tables

    if words or flags:
        raise BadConfig(f"lumen list takes nothing, not {[*words, *strings(flags)]}.")
    for slot, registry in (REGISTRIES | {"launcher": launchers}).items():
        print(f"{slot}=")
        for name in registry.names():
            place = slot if slot in SLOTS else name if slot == "launcher" else f"{slot}.{name}"
            arguments = " ".join(f"{place}.{key}" for key in registry.arguments(name))
            print(f"  {name:14s} {registry.summary(name)}")
            if arguments:
                print(f"{'':17s}{arguments}")
    print(f"experiments: {', '.join(configs.experiments())}\ntables: {', '.join(tables())}")
    return 0


@verb("show")
def show(words: list[str], flags: dict[str, str]) -> int:
    """lumen show EXPERIMENT [--cost key=value ...]: the config that would run, or what it would take; runs nothing"""
    import yaml

    from lumen.runs.directory import place_of

    ask_cost = flags.pop("--cost", None) is not None
    config = configs.load(one(words, "EXPERIMENT", show), strings(flags), complete=False)
    if ask_cost:
        from lumen.runs.cost.report import bill

        print(bill(config))
        return 0
    print(yaml.safe_dump(configs.dump(config), sort_keys=False), end="")
    print(f"# run folder: {place_of(config)}")
    return 0
