"""Command line: a verb, its positional arguments, and key=value options."""

import os
import shlex
import sys
import traceback

# It must be set before torch is imported. OpenMP's threads otherwise spin without end while they wait, and if another
# process needs the cores a small network trains ten times slower. Without any spin an idle machine loses a third.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# Their import registers the commands, in the order of the help.
from lumen.cli import runs, run_index, compare, pictures, studio, edit, synthesize  # noqa: F401, I001
from lumen.cli import worst, export, tables, data, caption, cache, info  # noqa: F401
from lumen.cli.command import COMMANDS
from lumen.cli.streams import OutputLost, prepare_streams, print_message, silence_libraries
from lumen.core.console import console
from lumen.core.errors import BadConfig, Mistake, UnknownName, explain_shortage, suggestion
from lumen.core.lifetime import wait_for_end_of_parent
from lumen.core.signals import INTERRUPT_EXIT_CODE, INTERRUPTED, SIGNAL_EXIT_CODE, SignalInterrupt, is_child_rank

QUIET, VERBOSE, HELP, VERSION = {"-q", "--quiet"}, {"-v", "--verbose"}, {"-h", "--help"}, {"--version", "-V"}


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit code.

    Returns:
        0 if everything is done, 1 if something is unfinished or unequal, 2 after a mistake of the user, 75 if a signal
        stopped the run, 130 after Ctrl-C.
    """
    prepare_streams()
    words = sys.argv[1:] if arguments is None else arguments
    with console.run(shlex.join(["lumen", *words]), bool(QUIET & set(words)), bool(VERBOSE & set(words))):
        silence_libraries()
        return _answer([word for word in words if word not in QUIET | VERBOSE])


def _answer(words: list[str]) -> int:
    """Run the command of these words, print what ended it, and return its exit code."""
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except Mistake as mistake:
        if console.is_verbose:
            traceback.print_exc()
        print_message(str(mistake))
        return 2
    except SignalInterrupt as interrupt:
        if is_child_rank():  # the first rank of this machine prints and returns for all of them
            return 0
        print_message(str(interrupt))
        return SIGNAL_EXIT_CODE
    except KeyboardInterrupt as interrupt:
        if is_child_rank():
            wait_for_end_of_parent()
        print_message(str(interrupt) or f"{INTERRUPTED}.")
        return INTERRUPT_EXIT_CODE
    except OutputLost as loss:
        print_message(str(loss))
        return 1
    except Exception as error:
        message = explain_shortage(error)
        if message is None:
            if console.log is not None:  # Python prints it once the log is closed
                console.log.record(traceback.format_exc())
            raise
        print_message(message)
        return 2


def _run(words: list[str]) -> int:
    if console.is_quiet and console.is_verbose:
        raise BadConfig("-q and -v contradict each other; write one of them.")
    if not words or HELP & set(words):
        words = ["help", *_find_verb([word for word in words if word not in HELP]).split()]
    elif words[0] in VERSION:
        words = ["version", *words[1:]]
    verb = _find_verb(words)
    if verb not in COMMANDS:
        raise UnknownName(f"lumen {verb} is no command by itself; {suggestion(verb, _group(verb))}")
    return COMMANDS[verb](*COMMANDS[verb].split(words[len(verb.split()) :]))


def _find_verb(words: list[str]) -> str:
    """Return the verb that a command begins with, or the first word of several verbs, such as "data".

    Raises:
        UnknownName: There is no such verb.
    """
    verb, two_words = " ".join(words[:1]), " ".join(words[:2])
    if two_words in COMMANDS:
        return two_words
    if verb in COMMANDS or not words or (_group(verb) and len(words) == 1):
        return verb
    unknown = two_words if _group(verb) else verb
    raise UnknownName(f"lumen has no command '{unknown}'; {suggestion(unknown, _group(verb) or COMMANDS)}")


def _group(verb: str) -> list[str]:
    """Return the verbs of two words that begin with one."""
    return [name for name in COMMANDS if name.startswith(f"{verb} ")]


if __name__ == "__main__":
    sys.exit(main())
