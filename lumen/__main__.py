"""The command line: a verb, then what it works on, then key=value flags."""

import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: OpenMP's threads spin without end while they wait, and where another process wants the
# cores a small network trains ten times slower. Sleeping at once would cost a quiet machine a third; so, a short spin.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from lumen import config as configs
from lumen.errors import BadConfig, Mistake, UnknownName, known
from lumen.signals import STOPPED, Stopped, started

if TYPE_CHECKING:
    from lumen.table import Table

VERBS: dict[str, Callable[..., int]] = {}


def verb(name: str) -> Callable:
    """Makes a function the verb `name`; its docstring is the verb's help."""

    def add(function: Callable[..., int]) -> Callable[..., int]:
        VERBS[name] = function
        return function

    return add


@verb("list")
def list_names(words: list[str], flags: dict[str, str]) -> int:
    """lumen list: what can be named in a config"""
    from lumen.registry import launchers
    from lumen.schema import REGISTRIES, SLOTS
    from lumen.table import tables

    _none_of(words, flags)
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

    from lumen.folder import place_of

    ask_cost = flags.pop("--cost", None) is not None
    config = configs.load(_one(words, "EXPERIMENT", show), _strings(flags), complete=False)
    if ask_cost:
        from lumen.bill import bill

        print(bill(config))
        return 0
    print(yaml.safe_dump(configs.dump(config), sort_keys=False), end="")
    print(f"# run folder: {place_of(config)}")
    return 0


@verb("data check")
def check(words: list[str], flags: dict[str, str]) -> int:
    """lumen data check NAME [root=DIR ...]: is a data set complete and readable? what is wrong, where, what next"""
    from lumen.build import build_data

    name = _one(words, "NAME", check)
    overrides = [f"data={name}", *(f"data.{key}={value}" for key, value in flags.items())]
    report = build_data(configs.load("scenes" if name == "scenes" else "coco_stuff", overrides)).check()
    print(report)
    return 0 if report.ok else 1


@verb("data render")
def render(words: list[str], flags: dict[str, str]) -> int:
    """lumen data render scenes OUT [format=coco_stuff size=64 train=64 val=16]: draws scenes in a data set's layout"""
    from lumen.scenes.export import write

    if len(words) != 2 or words[0] != "scenes":
        raise UnknownName(f"lumen data render draws 'scenes' into a folder; write: {_usage(render)}.")
    known_flags = {"format": "coco_stuff", "size": "64", "train": "64", "val": "16"}
    options = known_flags | flags
    _only(flags, known_flags)
    counts = {split: _whole(split, options[split]) for split in ("train", "val")}
    write(Path(words[1]), options["format"], counts, _whole("size", options["size"]))
    print(f"{counts['train']} train and {counts['val']} val scenes as {options['format']}: {words[1]}")
    return 0


@verb("questions")
def questions(words: list[str], flags: dict[str, str]) -> int:
    """lumen questions EXPERIMENT [out=FILE writer=MODEL reader=MODEL key=value ...]: asks about captions, for tifa"""
    out = Path(flags.pop("out", "questions.json"))
    models = {role: flags.pop(role, None) for role in ("writer", "reader")}
    if out.exists():  # an image that is asked about already is painted with that caption
        flags["measure.questions"] = str(out)
    config = configs.load(_one(words, "EXPERIMENT", questions), _strings(flags))
    from lumen.asking import ask
    from lumen.build import accelerator, build_data

    data = build_data(config)
    captions = {record.id: data.prompt(record.captions) for record in data.measured() if record.captions}
    if not captions:
        raise BadConfig(f"{config.experiment} has no captions in files that could be asked about; add captions=FILE.")
    asked = ask(captions, out, **models, device={"gpu": "cuda"}.get(accelerator(config), "cpu"))
    print(f"questions about {asked} of {len(captions)} images: {out}; name it with measure.questions={out}")
    return 0


@verb("layout")
def layout(words: list[str], flags: dict[str, str]) -> int:
    """lumen layout PHOTO ... [base=EXPERIMENT out=FILE key=value ...]: image | layout | each component, as a picture"""
    from lumen.show import draw_layouts

    if not words:
        raise UnknownName(f"which photo? Write: {_usage(layout)}.")
    out = Path(flags.pop("out", "layout.png"))
    config = configs.load(flags.pop("base", "coco_stuff"), _strings({"data": "scenes"} | flags))
    draw_layouts([Path(word) for word in words], config, out)
    print(f"picture: {out}")
    return 0


@verb("train")
def train(words: list[str], flags: dict[str, str]) -> int:
    """lumen train EXPERIMENT [key=value ...]: trains, then measures; the same command goes on with a run"""
    config = configs.load(_one(words, "EXPERIMENT", train), _strings(flags))
    from lumen import run

    run.train(config)
    return 0


@verb("cache build")
def build_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache build EXPERIMENT [key=value ...]: makes the latents and layouts that its runs would look at"""
    config = configs.load(_one(words, "EXPERIMENT", build_cache), _strings({"cache": "always"} | flags))
    from lumen.keeping import build

    build(config)
    return 0


@verb("cache ls")
def list_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache ls [runs=DIR]: what is kept, how much of it, and when it was used last"""
    from lumen.cache import amount, stock

    shelves = stock(_cache(words, flags, list_cache))
    print("\n".join([*map(str, shelves), f"{amount(sum(each.size for each in shelves))} in all"]))
    return 0


@verb("cache verify")
def verify_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache verify [runs=DIR]: reads all that is kept; what is damaged is removed, to be made anew"""
    from lumen.cache import damaged

    bad = list(damaged(_cache(words, flags, verify_cache)))
    print("\n".join([*(f"removed: {path}" for path in bad), f"{len(bad)} damaged"]))
    return 1 if bad else 0


@verb("cache prune")
def prune_cache(words: list[str], flags: dict[str, str]) -> int:
    """lumen cache prune [gb=0 runs=DIR]: removes what has not been used longest, until gb are left"""
    from lumen.cache import prune

    limit = flags.pop("gb", "0")
    try:
        gone = list(prune(_cache(words, flags, prune_cache), int(float(limit) * 1e9)))
    except ValueError:
        raise BadConfig(f"gb must be a number of gigabytes, not '{limit}'.") from None
    print("\n".join([*(f"removed: {each}" for each in gone), f"{len(gone)} removed"]))
    return 0


@verb("certify")
def certify(words: list[str], flags: dict[str, str]) -> int:
    """lumen certify EXPERIMENT [steps=6 key=value ...]: is a run that is killed and continued the same, bit by bit?"""
    from lumen.certify import certified

    return 0 if certified(_one(words, "EXPERIMENT", certify), _strings(flags)) else 1


@verb("eval")
def evaluate(words: list[str], flags: dict[str, str]) -> int:
    """lumen eval RUN [key=value ...]: measures a trained run again, with other sampling or seeds"""
    from lumen.folder import saved

    place = Path(_one(words, "RUN", evaluate))
    config = configs.reload(saved(place), _strings(flags))
    from lumen import run

    run.evaluate(place, config)
    return 0


@verb("sample")
def sample(words: list[str], flags: dict[str, str]) -> int:
    """lumen sample RUN PHOTO "a prompt" [out=FILE seed=0 key=value ...]: pictures with the photo's layout"""
    from lumen.folder import saved
    from lumen.show import draw_samples

    if len(words) != 3:
        raise UnknownName(f"a run, a photo and a prompt are needed; write: {_usage(sample)}.")
    place, photo, prompt = Path(words[0]), Path(words[1]), words[2]
    name = f"{photo.stem}-{sha256(' '.join([*words, *_strings(flags)]).encode()).hexdigest()[:8]}.png"
    out = Path(flags.pop("out", place / "samples" / name))
    draw_samples(place, configs.reload(saved(place), _strings(flags)), photo, prompt, out)
    print(f"picture: {out}")
    return 0


@verb("ablate")
def ablate(words: list[str], flags: dict[str, str]) -> int:
    """lumen ablate TABLE [base=EXPERIMENT seeds=1 rows=A,B launcher=local trial=A --print key=value ...]: all rows"""
    from lumen import sweep

    only_print, launcher = flags.pop("--print", None) is not None, sweep.launcher(flags)
    only = flags.pop("trial", None)
    rows = _table(words, flags, ablate)
    if only_print:
        print("\n".join(command for trial in sweep.trials(rows, only) for command in trial.commands.values()))
        return 0
    every = sweep.ablate(rows, launcher, only)
    if any(trial.state == "sent" for trial in every):
        return 0
    if only is None:  # else an agent of W&B has asked for one run
        print()
        _print_table(rows)
    for trial in every:
        if trial.failures:
            print(trial.report(), file=sys.stderr)
    left = [trial for trial in every if trial.left()]
    if left and all(trial.state == "stopped" for trial in left):
        return STOPPED
    return 1 if left else 0


@verb("table")
def table(words: list[str], flags: dict[str, str]) -> int:
    """lumen table TABLE [base=EXPERIMENT seeds=1 rows=A,B parts=METRIC key=value ...]: its finished rows"""
    parts = flags.pop("parts", None)
    _print_table(_table(words, flags, table), parts)
    return 0


@verb("report")
def report(words: list[str], flags: dict[str, str]) -> int:
    """lumen report TABLE [base=EXPERIMENT seeds=1 rows=A,B wandb=online key=value ...]: a page of it"""
    rows = _table(words, flags, report)
    from lumen.report import save
    from lumen.results import collect

    results = collect(rows)
    print(f"page: {save(results)}")
    if rows.config(rows.rows[0], 0).wandb != "online":
        return 0
    from lumen.panels import publish

    return 0 if publish(results) else 1


def _print_table(rows: "Table", parts: str | None = None) -> None:
    """Prints a table, or one metric's parts of it, and writes its files."""
    from lumen.formats import markdown
    from lumen.gallery import save
    from lumen.results import collect

    print(markdown(collect(rows, parts)))
    if parts is None:
        print("\n".join(["", *(f"file: {path}" for path in save(collect(rows)))]))


@verb("leakage")
def leakage(words: list[str], flags: dict[str, str]) -> int:
    """lumen leakage TABLE [base=EXPERIMENT seeds=1 key=value ...]: how much appearance every row's layout carries"""
    rows = _table(words, flags, leakage)
    from lumen.leakage import leakage as probed

    text, path = probed(rows)
    print(f"{text}\n\ntable: {path}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0 done, 1 not all that was asked for, 2 a mistake, 75 told to stop, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        name, words, flags = _parse(arguments)
        if name is None:
            print("\n".join(["usage: lumen VERB ...", *(f"  {_usage(f, True)}" for f in VERBS.values())]))
            return 0
        return VERBS[name](words, flags)
    except Mistake as mistake:
        print("\n".join(f"lumen: {line}" for line in str(mistake).splitlines()), file=sys.stderr)
        return 2
    except Stopped as stopped:
        if started():  # by the first rank of this machine, which speaks for all
            return 0
        print(f"lumen: {stopped}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("lumen: interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130


def _parse(arguments: list[str]) -> tuple[str | None, list[str], dict[str, str]]:
    """The verb, the plain words and the flags of a command; no verb means help is wanted."""
    if not arguments or arguments[0] in ("help", "-h", "--help") or {"-h", "--help"} & set(arguments):
        return None, [], {}
    two = " ".join(arguments[:2])
    name = two if two in VERBS else arguments[0]
    if name not in VERBS:
        deeper = [v for v in VERBS if v.startswith(f"{name} ")]
        asked = two if deeper else name
        raise UnknownName(f"lumen cannot '{asked}'; {known(asked, deeper or VERBS)}")
    words, flags = [], {}
    for argument in arguments[len(name.split()) :]:
        key, equals, value = argument.partition("=")
        if argument.startswith("--"):
            flags[argument] = ""
        elif equals and key.replace(".", "").isidentifier():
            flags[key] = value
        else:
            words.append(argument)
    options = {("--print", "ablate"), ("--cost", "show")}
    if unknown := [flag for flag in flags if flag.startswith("--") and (flag, name) not in options]:
        raise BadConfig(f"lumen {name} has no option '{unknown[0]}'; settings are written key=value.")
    return name, words, flags


def _strings(flags: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in flags.items()]


def _table(words: list[str], flags: dict[str, str], verb: Callable) -> "Table":
    from lumen.table import read

    base, seeds = flags.pop("base", None), _whole("seeds", flags.pop("seeds", "1"))
    only = [name for name in flags.pop("rows", "").split(",") if name]
    return read(_one(words, "TABLE", verb), base, seeds, _strings(flags), only)


def _one(words: list[str], what: str, verb: Callable) -> str:
    if len(words) != 1:
        got = f"not {len(words)}: {', '.join(map(repr, words))}" if words else "none was given"
        raise UnknownName(f"one {what} is needed, {got}; write: {_usage(verb)}.")
    return words[0]


def _cache(words: list[str], flags: dict[str, str], verb: Callable) -> Path:
    if words or flags.keys() - {"runs"}:
        raise BadConfig(f"not {[*words, *_strings(flags)]}; write: {_usage(verb)}.")
    return Path(flags.get("runs", "runs")) / "cache"


def _none_of(words: list[str], flags: dict[str, str]) -> None:
    if words or flags:
        raise BadConfig(f"lumen list takes nothing, not {[*words, *_strings(flags)]}.")


def _only(flags: dict[str, str], names: dict[str, str]) -> None:
    for flag in flags.keys() - names.keys():
        raise BadConfig(f"there is no '{flag}' here; {known(flag, names)}")


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise BadConfig(f"{name} must be a whole number above 0, not '{text}'.")
    return int(text)


def _usage(verb: Callable, whole: bool = False) -> str:
    return verb.__doc__ if whole else verb.__doc__.partition(": ")[0]


if __name__ == "__main__":
    sys.exit(main())
