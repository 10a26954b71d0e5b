"""Recipes of pictures: the command in a PNG file, by which a later command knows that it may replace the file."""

from contextlib import suppress
from pathlib import Path

from lumen.core.errors import Mistake

COMMAND = "command"  # entry of a PNG file


def has_recipe(path: Path) -> bool:
    """Return whether a file is a PNG that a command of LUMEN made."""
    from PIL import Image  # not at the top, so that commands start fast

    with suppress(OSError, SyntaxError, ValueError), Image.open(path) as file:
        return COMMAND in file.info
    return False


def verify_replaceable(path: Path) -> None:
    """Verify that a picture would replace no file but that of an earlier command.

    Raises:
        Mistake: It would.
    """
    if path.exists() and not has_recipe(path):
        raise Mistake(f"out={path} is there already, and LUMEN did not make it; choose another file.")
