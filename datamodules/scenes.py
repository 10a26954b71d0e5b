"""Rendered scenes: exact labels, depth, boxes and scene graph, any number of images, no files."""

import hashlib
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image

from lumen.core.errors import BadConfig
from lumen.core.ranges import Range
from lumen.core.registry import datamodules
from lumen.data.copies import Files
from lumen.data.index import ImageRecord
from lumen.data.integrity import IntegrityReport
from lumen.data.questions import Question
from lumen.data.source import DataSource, LoaderConfig
from lumen.scenes import world
from lumen.scenes.caption_edits import edit_graph
from lumen.scenes.captions import compose_captions
from lumen.scenes.export import describe_boxes, map_labels
from lumen.scenes.objects import KINDS
from lumen.scenes.questions import compose_questions
from lumen.scenes.render import Scene, render
from lumen.scenes.world import CLASSES, GROUNDS, SKIES, SPLIT_SIZE, SPLITS, pick, split_seeds

if TYPE_CHECKING:
    from lumen.core.interfaces import Batch

MEMORY_PIXELS = 4096 * 64**2  # pixels of all scenes that stay in memory, at 13 bytes each


@datamodules.register
class Scenes(DataSource):
    """The offline world of `lumen.scenes`; image i of a split is the scene of the split's i-th seed.

    Images are never flipped, because captions say what is left and right. `extra` has depth (H, W) in metres along the
    optical axis, inf in the sky; disparity (H, W) in pixels; instance (H, W); camera, boxes_2d, boxes_3d, graph; boxes
    as Cityscapes' gtBbox3d has them, of all kinds of objects; domain, the sky.

    Args:
        images: Number of training images.
        edit: Part of the scene that captions and questions of evaluation images change; the images stay.
        skies: Skies of the images of all splits; image i is then the i-th scene that has one of these.
    """

    classes = CLASSES
    box_classes = KINDS
    domains = SKIES
    eval_split = "test"

    def __init__(
        self,
        images: Annotated[int, Range(1, 10_000_000)] = 4096,  # seeds of a split
        edit: Literal["sky", "ground", "colour"] | None = None,
        skies: list[Literal["clear", "overcast", "sunset", "night", "fog", "snow"]] | None = None,
        *,
        loader_config: LoaderConfig,
    ):
        if loader_config.questions:
            raise BadConfig("measure.questions: the questions about scenes come from their graphs; leave it out.")
        if skies == []:
            raise BadConfig(f"data.skies is empty; name skies, as in [clear,overcast], of: {', '.join(SKIES)}.")
        super().__init__("", loader_config)
        self.images, self.edit, self.skies = images, edit, skies
        self._memory: dict[str, dict[str, Any]] = {}

    def records(self, split: str) -> list[ImageRecord]:
        """Return the images of a split ("train", "val" or "test")."""
        config = self.loader_config
        count = {"train": self.images, "val": config.val_images, "test": config.eval_images}[split]
        if self.skies is None:
            return [ImageRecord(f"scene-{seed}") for seed in split_seeds(split, count)]
        if split not in self._records:
            self._records[split] = [ImageRecord(f"scene-{seed}") for seed in self._seeds_of_skies(split, count)]
        return self._records[split]

    def _seeds_of_skies(self, split: str, count: int) -> list[int]:
        """Return the first seeds of a split whose scenes have one of the skies.

        Raises:
            BadConfig: The split has fewer.
        """
        rng = np.random.RandomState()  # to make one takes forty times as long as to seed it
        seeds = (seed for seed in split_seeds(split, SPLIT_SIZE) if sky_of(seed, rng) in self.skies)
        chosen = list(islice(seeds, count))
        if len(chosen) < count:
            raise BadConfig(
                f"data.skies: the {split} split has {len(chosen):,} scenes of {', '.join(self.skies)}, and {count:,} "
                "were requested; request fewer, or name more skies."
            )
        return chosen

    def domain(self, record: ImageRecord) -> str:
        """Return the sky of a scene, without rendering it."""
        return sky_of(_seed_of(record), np.random.RandomState())

    def caption_for(self, record: ImageRecord, domain: str) -> str:
        """Return the first caption of a scene under another sky.

        Raises:
            UnknownName: There is no such sky.
        """
        graph = self.read(record)["graph"] | {"sky": self.require_domain(domain)}
        return self.select_caption(compose_captions(graph))

    def copy_files(self, record: ImageRecord, name: str, root: Path) -> Files:
        """Return the files of a copy of a scene in the format of COCO-Stuff, as `lumen data render` writes scenes."""
        labels = Image.fromarray(map_labels(render(_seed_of(record), self.loader_config.size), "coco_stuff"))
        labels.save(content := BytesIO(), "PNG")
        return {
            "captions": (Path("annotations/captions_train2017.json"), b""),
            "mask": (Path(f"stuffthingmaps/train2017/{name}.png"), content.getvalue()),
            "image": (Path(f"images/train2017/{name}.png"), b""),
        }

    def questions(self, batch: "Batch") -> list[tuple[Question, ...]]:
        """Return questions from the scene graphs: about all of the first caption, or only about its edited words."""
        about_all = [compose_questions(graph) for graph in batch.extra["graph"]]
        return [tuple(q for q in about_image if self.edit in (None, q.kind)) for about_image in about_all]

    def num_questioned(self) -> int:
        """Return the number of evaluation images, all of which have questions."""
        return len(self.eval_records())

    def num_annotated(self, kind: str, records: list[ImageRecord]) -> int:
        """Return the number of these images, all of which have all kinds of annotations."""
        return len(records)

    def hash_contents(self, records: list[ImageRecord], memo: Path) -> list[str]:
        """Return a hash for each image. The only files are those of the renderer."""
        return [f"{_renderer_hash()} {record.id}" for record in records]

    def read(self, record: ImageRecord) -> dict[str, Any]:
        """Return a scene from memory, or render it: rendering takes a third of a small training step."""
        if record.id not in self._memory:
            parts = self._render(record)
            if len(self._memory) * self.loader_config.size**2 < MEMORY_PIXELS:
                self._memory[record.id] = parts
            return dict(parts)
        return dict(self._memory[record.id])

    def _render(self, record: ImageRecord) -> dict[str, Any]:
        scene = render(_seed_of(record), self.loader_config.size)
        maps = {
            "image": scene.image,
            "mask": scene.semantic,
            "instance": scene.instance,
            "depth": scene.depth,
            "disparity": scene.disparity,
        }
        parts = {name: getattr(scene, name) for name in ("captions", "camera", "boxes_2d", "boxes_3d", "graph")}
        if self.edit and scene.seed >= SPLITS[self.eval_split]:
            parts["graph"] = edit_graph(scene.graph, self.edit)
            parts["captions"] = compose_captions(parts["graph"])
        parts |= {"boxes": describe_all_boxes(scene), "domain": scene.graph["sky"]}
        return parts | {kind: Image.fromarray(pixels) for kind, pixels in maps.items()}

    def check(self) -> IntegrityReport:
        """Report the hash of the first eight scenes, which changes with the renderer: there are no files to open."""
        counts = {split: {"image": len(self.records(split))} for split in ("train", "val")}
        return IntegrityReport(self.name, "no directory (rendered)", counts, self._hash_scenes(8))

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the images, their skies, and the first rendered scene."""
        skies = "" if self.skies is None else f" {sorted(set(self.skies))}"
        return hashlib.sha256(f"{self.images} {self._hash_scenes(1)}{skies}".encode()).hexdigest()[:16]

    def _hash_scenes(self, count: int) -> str:
        digest = hashlib.sha256()
        for seed in split_seeds("train", count):
            scene = render(seed, 64)
            digest.update(scene.image.tobytes() + scene.semantic.tobytes() + repr(scene.captions).encode())
        return digest.hexdigest()[:16]


def sky_of(seed: int, rng: np.random.RandomState) -> str:
    """Return the sky of a scene: the second number that `world.sample_world` samples.

    Args:
        rng: Generator that is seeded anew.
    """
    rng.seed(seed)
    pick(rng, GROUNDS)
    return pick(rng, SKIES)


def describe_all_boxes(scene: Scene) -> dict[str, Any]:
    """Return the content of *_gtBbox3d.json with the objects of all kinds, not of cars alone."""
    objects = [
        {"2d": {"modal": flat["modal"], "amodal": flat["amodal"]}, "3d": solid, "label": obj["kind"], "score": 1.0}
        for obj, flat, solid in zip(scene.graph["objects"], scene.boxes_2d, scene.boxes_3d, strict=True)
    ]
    return describe_boxes(scene) | {"objects": objects}


def _seed_of(record: ImageRecord) -> int:
    return int(record.id.removeprefix("scene-"))


@cache
def _renderer_hash() -> str:
    """Return a hash of the renderer's source code."""
    sources = sorted(Path(world.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
