"""The command line: a verb, then what it works on, then key=value flags."""

import os
import sys

# Before torch is imported: OpenMP's threads spin without end while they wait, and where another process wants the
# cores a small network trains ten times slower. Sleeping at once would cost a quiet machine a third; so, a short spin.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from lumen.cli import cache, data, info, runs, tables  # noqa: F401  (each adds its verbs)
from lumen.cli.command import VERBS, usage
from lumen.core.errors import BadConfig, Mistake, UnknownName, suggestion
from lumen.core.signals import STOPPED, Stopped, started


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns 0 done, 1 not all that was asked for, 2 a mistake, 75 told to stop, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        name, words, flags = _parse(arguments)
        if name is None:
            print("\n".join(["usage: lumen VERB ...", *(f"  {usage(f, True)}" for f in VERBS.values())]))
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
        raise UnknownName(f"lumen cannot '{asked}'; {suggestion(asked, deeper or VERBS)}")
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


if __name__ == "__main__":
    sys.exit(main())
