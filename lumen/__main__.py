"""Command line: a verb, its positional arguments, and key=value options."""

import os
import sys

# It must be set before torch is imported. OpenMP's threads otherwise spin without end while they wait, and if another
# process needs the cores a small network trains ten times slower. Without any spin an idle machine loses a third.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from lumen.cli import cache, data, info, runs, tables  # noqa: F401  (their import registers the commands)
from lumen.cli.command import COMMANDS
from lumen.cli.streams import OutputLost, prepare_streams, print_message, silence_libraries
from lumen.core.errors import Mistake, UnknownName, explain_shortage, suggestion
from lumen.core.lifetime import wait_for_end_of_parent
from lumen.core.signals import INTERRUPT_EXIT_CODE, INTERRUPTED, SIGNAL_EXIT_CODE, SignalInterrupt, is_child_rank


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit code.

    Returns:
        0 if everything is done, 1 if something is unfinished or unequal, 2 after a mistake of the user, 75 if a signal
        stopped the run, 130 after Ctrl-C.
    """
    prepare_streams()
    silence_libraries()
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except Mistake as mistake:
        print_message(str(mistake))
        return 2
    except SignalInterrupt as interrupt:
        if is_child_rank():  # the first rank of this machine prints and returns for all of them
            return 0
        print_message(str(interrupt))
        return SIGNAL_EXIT_CODE
    except KeyboardInterrupt:
        if is_child_rank():
            wait_for_end_of_parent()
        print_message(INTERRUPTED)
        return INTERRUPT_EXIT_CODE
    except OutputLost as loss:
        print_message(str(loss))
        return 1
    except Exception as error:
        message = explain_shortage(error)
        if message is None:
            raise
        print_message(message)
        return 2


def _run(arguments: list[str]) -> int:
    verb, positionals, options = _parse(arguments)
    if verb is None:
        _print_help()
        return 0
    return COMMANDS[verb](positionals, options)


def _print_help() -> None:
    print("usage: lumen VERB ...")
    for command in COMMANDS.values():
        print(f"\n  {command.usage}\n      {command.help}")


def _parse(arguments: list[str]) -> tuple[str | None, list[str], dict[str, str]]:
    """Return the verb, the positional arguments and the options; the verb is None if help is asked for."""
    if not arguments or arguments[0] in ("help", "-h", "--help") or {"-h", "--help"} & set(arguments):
        return None, [], {}
    two_words = " ".join(arguments[:2])
    verb = two_words if two_words in COMMANDS else arguments[0]
    if verb not in COMMANDS:
        group = [name for name in COMMANDS if name.startswith(f"{verb} ")]
        unknown = two_words if group else verb
        raise UnknownName(f"lumen has no command '{unknown}'; {suggestion(unknown, group or COMMANDS)}")
    return verb, *COMMANDS[verb].split(arguments[len(verb.split()) :])


if __name__ == "__main__":
    sys.exit(main())
