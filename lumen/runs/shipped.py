"""Run that comes with LUMEN: a ControlNet on DINO's layouts of scenes, in half precision."""

from pathlib import Path

from lumen.core.errors import UnknownName
from lumen.core.paths import user_path

SHIPPED_NAME = "scenes"
SHIPPED_RUN = Path(__file__).parents[1] / "scenes" / "weights" / "controlnet"


def find_run(word: str) -> Path:
    """Return the directory of a run, which "scenes" is for the one that comes with LUMEN.

    Raises:
        UnknownName: The run of scenes is not there.
    """
    path = user_path(word)
    if word != SHIPPED_NAME or path.is_dir():
        return path
    if not (SHIPPED_RUN / "config.yaml").is_file():
        raise UnknownName(
            f"this installation lacks the run '{word}' in {SHIPPED_RUN}; train one by `lumen train scenes`, and name "
            "its directory, runs/scenes/default/seed0."
        )
    return SHIPPED_RUN
