"""ACDC (Sakaridis et al. 2021): 1,600 + 406 street frames in fog, night, rain and snow, Cityscapes' 19 classes."""

from functools import partial
from pathlib import Path
from typing import Literal

from lumen.core.errors import BadConfig
from lumen.core.labels import IGNORE
from lumen.core.ranges import Share
from lumen.core.registry import datamodules
from lumen.data.class_names import CITYSCAPES
from lumen.data.fake import write_json, write_pair
from lumen.data.index import DatasetIndex, ImageRecord
from lumen.data.readers import consecutive_classes, lookup_table, read_image, read_label_map
from lumen.data.source import DataSource, LoaderConfig

CONDITIONS = ("fog", "night", "rain", "snow")
# The second ones are where an archive is unpacked into a folder of its name.
IMAGES, LABELS = ("rgb_anon", "rgb_anon_trainvaltest/rgb_anon"), ("gt", "gt_trainval/gt")
LABELS_SUFFIX = "_gt_labelTrainIds.png"
FAKE_IMAGES = {"train": {"fog": 1, "night": 2, "rain": 1, "snow": 2}, "val": dict.fromkeys(CONDITIONS, 1)}


@datamodules.register
class Acdc(DataSource):
    """rgb_anon and gt, each with {fog,night,rain,snow}/{train,val}/SEQUENCE, and captions.json, {stem: caption}.

    `root` is the directory into which the archives unpack; those of the official names may be folders of their own.
    The PNG values of `gt_labelTrainIds` are Cityscapes' train ids 0-18, and 255 for unlabelled pixels. The frames of
    the splits `*_ref`, by day, are not used. `extra` has domain, the condition of each image.

    A frame is resized to the height `size`, in proportion. Training uses a random square of it, evaluation the
    central square, or with full=true the whole frame.

    Args:
        conditions: Conditions whose images are used.
        fit: stretch or pad: whole frames made square, in place of random crops.

    Source: acdc.vision.ee.ethz.ch, and the loader of w1oves/Rein, configs/_base_/datasets/fog-acdc_1024x1024.py.
    """

    classes = tuple(CITYSCAPES.values())
    random_crop = True
    licence = "ACDC has a licence of its own; read it where you download the data."
    published_images = {"train": 1_600, "val": 406}

    def __init__(
        self,
        root: str,
        captions: str | None = None,
        conditions: list[Literal["fog", "night", "rain", "snow"]] = ("fog", "night", "rain", "snow"),
        full: bool = False,
        flip: Share = 0.5,
        fit: Literal["stretch", "crop", "pad"] | None = None,
        *,
        loader_config: LoaderConfig,
    ):
        if not conditions:
            raise BadConfig(f"data.conditions is empty; name some of: {', '.join(CONDITIONS)}.")
        super().__init__(root, loader_config)
        self.captions, self.conditions, self.flip = captions, conditions, flip
        self.use_fit(fit, full)
        table = lookup_table(consecutive_classes(list(range(len(self.classes)))))
        self.readers = {"image": read_image, "mask": partial(read_label_map, table=table)}

    def index_split(self, split: str) -> DatasetIndex:
        """Return the files of a split, those of all conditions together."""
        index = DatasetIndex(self.root)
        present = [c for c in CONDITIONS if any((self.root / directory / c).is_dir() for directory in IMAGES)]
        for condition in dict.fromkeys(self.conditions):
            if present and condition not in present:
                index.problems.append(
                    f"there is no directory {self.root / IMAGES[0] / condition}; unpack the archive of image files "
                    f"there, or leave {condition} out with data.conditions=[{','.join(present)}]."
                )
                continue
            part = DatasetIndex(self.root)
            for kind, suffix, directories in (("image", "_rgb_anon.png", IMAGES), ("mask", LABELS_SUFFIX, LABELS)):
                part.add_files(kind, (suffix,), *(f"{directory}/{condition}/{split}" for directory in directories))
            index.add_part(part)
        index.add_captions(self.captions, "captions.json")
        return index

    def domain(self, record: ImageRecord) -> str:
        """Return the condition, a folder above the image."""
        return next(part for part in reversed(record.files["image"].parts) if part in CONDITIONS)

    @staticmethod
    def fake(root: str | Path) -> None:
        """Write a tiny data set in the official format."""
        root, captions = Path(root), {}
        for split, counts in FAKE_IMAGES.items():
            for condition, count in counts.items():
                sequence = f"GOPR{CONDITIONS.index(condition):02}{10 + (split == 'val')}"
                for i in range(1, count + 1):
                    stem, folder = f"{sequence}_frame_{i:06}", f"{condition}/{split}/{sequence}"
                    image, mask = root / f"rgb_anon/{folder}/{stem}_rgb_anon.png", root / f"gt/{folder}"
                    ids = [*range(len(CITYSCAPES)), IGNORE]
                    write_pair(image, mask / f"{stem}{LABELS_SUFFIX}", ids, (96, 54), len(captions))
                    captions[stem] = f"a road, frame {i} of {sequence}"
        write_json(root / "captions.json", captions)
