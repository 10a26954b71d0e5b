"""Settings of samples, which a link and a command hold as words."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from urllib.parse import urlencode

from lumen.config.schema import Config
from lumen.core.errors import BadConfig

KEYS = ("guidance", "steps", "negative", "control_end")  # of a config's `sampling`
FILE_KEYS = ("photo", "layout")
NUM_SAMPLES = 4
STORED_NAME = re.compile(r"(photo|layout)-[0-9a-f]{16}\.(png|jpg|jpeg|webp|npy)")


@dataclass(frozen=True)
class Settings:
    """Everything that samples depend on besides the run.

    Attributes:
        photo: File in the folder of the studio.
        layout: File of an edited layout there; "" is the photo's own.
        control_end: Share of the steps that the layout steers.
    """

    photo: str = ""
    layout: str = ""
    prompt: str = ""
    negative: str = ""
    seed: int = 0
    guidance: float = 1.0
    steps: int = 25
    control_end: float = 1.0
    fit: str = "stretch"

    @classmethod
    def of_config(cls, config: Config) -> "Settings":
        """Return those of a run."""
        sampling = {key: getattr(config.sampling, key) for key in KEYS}
        return cls(seed=config.seed, **sampling)

    def overrides(self, config: Config) -> list[str]:
        """Return the flags by which these differ from a run's config."""
        changed = {f"sampling.{key}": getattr(self, key) for key in KEYS}
        own = {f"sampling.{key}": getattr(config.sampling, key) for key in KEYS} | {"seed": config.seed}
        return [f"{key}={value}" for key, value in (changed | {"seed": self.seed}).items() if value != own[key]]

    def command(self, run: str, config: Config, folder: Path, flags: Sequence[str] = ()) -> str:
        """Return the command that generates the same samples.

        Args:
            flags: Overrides that the config has and the run's own config lacks.
        """
        words = ["lumen", "sample", run, str(folder / self.photo), self.prompt, *flags, *self.overrides(config)]
        if config.sampling.images != NUM_SAMPLES:
            words.append(f"sampling.images={NUM_SAMPLES}")
        if self.layout:
            words.append(f"layout={folder / self.layout}")
        if self.fit != "stretch":
            words.append(f"fit={self.fit}")
        return shlex.join([*words, "out=samples/"])

    def query(self, run: str) -> str:
        """Return the part of a link that holds these and the name of a run."""
        words = {key: value for key, value in asdict(self).items() if value or key not in FILE_KEYS}
        return "?" + urlencode({"run": run} | words)

    def read_query(self, words: dict[str, str]) -> "Settings":
        """Return these with what a link holds in their place.

        Raises:
            BadConfig: A value is none that the studio has written.
        """
        changed = {}
        for field in fields(self):
            if field.name in words:
                changed[field.name] = _read(field.name, words[field.name], type(getattr(self, field.name)))
        return replace(self, **changed)


def _read(key: str, text: str, kind: type) -> str | int | float:
    try:
        value = kind(text)
    except ValueError:
        raise BadConfig(f"the link has {key}={text[:40]!r}, which is no number; copy the link again.") from None
    if key in FILE_KEYS and text and not STORED_NAME.fullmatch(text):
        raise BadConfig(f"the link has {key}={text[:40]!r}, which is no file of the studio; copy the link again.")
    if key == "fit" and text not in ("stretch", "crop", "pad"):
        raise BadConfig(f"the link has fit={text[:40]!r}; it is stretch, crop or pad.")
    return value
