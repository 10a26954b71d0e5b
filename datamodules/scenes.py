"""Rendered scenes: labels, depth, boxes and graph exact, as many as asked for, no files needed."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule, Loading
from lumen.data.index import Record
from lumen.data.integrity import Report
from lumen.data.questions import Question
from lumen.scenes import world
from lumen.scenes.caption_edits import edited
from lumen.scenes.captions import captions
from lumen.scenes.questions import questions
from lumen.scenes.render import render
from lumen.scenes.world import CLASSES, SPLITS, seeds

KEPT = 4096 * 64**2  # pixels of scenes that stay in memory, at 13 bytes each


@datamodules.register
class Scenes(DataModule):
    """The offline world of `lumen.scenes`; image i of a split is the scene of the split's i-th seed.

    Never mirrored, for captions say what is left and right of what. `extra` has depth (H, W) in metres along
    the optical axis, inf in the sky; disparity (H, W) in pixels; instance (H, W); camera, boxes_2d, boxes_3d, graph.

    Args:
        images: of the train split.
        edit: what the captions of held-out images, and the questions about them, say otherwise than their picture.
    """

    classes = CLASSES
    held_out = "test"

    def __init__(self, images: int = 4096, edit: Literal["sky", "ground", "colour"] | None = None, *, loading: Loading):
        if loading.questions:
            raise BadConfig("measure.questions: the questions about scenes come from their graphs; leave it out.")
        super().__init__("", loading)
        self.images, self.edit = images, edit
        self._drawn: dict[str, dict[str, Any]] = {}

    def records(self, split: str) -> list[Record]:
        count = {"train": self.images, "val": self.loading.validation, "test": self.loading.measured}[split]
        return [Record(f"scene-{seed}") for seed in seeds(split, count)]

    def questions(self, batch: Batch) -> list[tuple[Question, ...]]:
        """From the scene graph: all that the first caption says, or where it is edited the edited words."""
        asked = [questions(graph) for graph in batch.extra["graph"]]
        return [tuple(q for q in some if self.edit in (None, q.kind)) for some in asked]

    def asks(self) -> int:
        return len(self.measured())

    def contents(self, records: list[Record], memo: Path) -> list[str]:
        """There are no files to hash but the renderer's own."""
        return [f"{_renderer()} {record.id}" for record in records]

    def load(self, record: Record) -> dict[str, Any]:
        """A scene, drawn once and kept as long as there is room: drawing takes a third of a small training step."""
        if record.id not in self._drawn:
            parts = self._draw(record)
            if len(self._drawn) * self.loading.size**2 < KEPT:
                self._drawn[record.id] = parts
            return dict(parts)
        return dict(self._drawn[record.id])

    def _draw(self, record: Record) -> dict[str, Any]:
        scene = render(int(record.id.removeprefix("scene-")), self.loading.size)
        planes = {
            "image": scene.image,
            "mask": scene.semantic,
            "instance": scene.instance,
            "depth": scene.depth,
            "disparity": scene.disparity,
        }
        facts = ("captions", "camera", "boxes_2d", "boxes_3d", "graph")
        parts = {fact: getattr(scene, fact) for fact in facts}
        if self.edit and scene.seed >= SPLITS[self.held_out]:
            parts["graph"] = edited(scene.graph, self.edit)
            parts["captions"] = captions(parts["graph"])
        return parts | {kind: Image.fromarray(plane) for kind, plane in planes.items()}

    def check(self) -> Report:
        """There are no files to open: the hash is of the first few scenes, which change with the renderer."""
        counts = {split: {"image": len(self.records(split))} for split in ("train", "val")}
        return Report(self.name, "no folder (rendered)", counts, self._rendered(8))

    def fingerprint(self) -> str:
        """Changes with the number of images, and with what the renderer makes of the first."""
        return hashlib.sha256(f"{self.images} {self._rendered(1)}".encode()).hexdigest()[:16]

    def _rendered(self, count: int) -> str:
        digest = hashlib.sha256()
        for seed in seeds("train", count):
            scene = render(seed, 64)
            digest.update(scene.image.tobytes() + scene.semantic.tobytes() + repr(scene.captions).encode())
        return digest.hexdigest()[:16]


@cache
def _renderer() -> str:
    """A hash of all code that draws."""
    sources = sorted(Path(world.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
