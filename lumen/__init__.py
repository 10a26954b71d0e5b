"""LUMEN: label-free neural semantic image synthesis, as an experiment framework.

    import lumen

    run = lumen.load_run("runs/scenes/default/seed0")
    images = run.sample("photo.jpg", "a snowy road")

The names below are imported on first use, so that `import lumen` stays fast.
"""

from importlib import import_module
from typing import Any

from lumen.core.lifetime import end_rank_with_parent

__version__ = "0.1.0"

_MODULES = {
    "load_run": "lumen.runs.api",
    "Batch": "lumen.core.interfaces",
    "Backbone": "lumen.core.interfaces",
    "Conditioning": "lumen.core.interfaces",
    "Generator": "lumen.core.interfaces",
    "Task": "lumen.core.interfaces",
    "Metric": "lumen.core.interfaces",
}
__all__ = ["Backbone", "Batch", "Conditioning", "Generator", "Metric", "Task", "__version__", "load_run"]

end_rank_with_parent()


def __getattr__(name: str) -> Any:
    """Import a name of the public API."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lumen' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
