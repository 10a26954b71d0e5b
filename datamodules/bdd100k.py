"""BDD100K's segmentation set (Yu et al. 2020): 7,000 + 1,000 dashboard frames, Cityscapes' 19 classes."""

from functools import partial
from pathlib import Path

import torch

from lumen.core.interfaces import IGNORE
from lumen.core.registry import datamodules
from lumen.data.class_names import CITYSCAPES
from lumen.data.datamodule import DataModule, Loading
from lumen.data.fake import write_json, write_pair
from lumen.data.index import Survey
from lumen.data.readers import consecutive, label_map, lookup, picture
from lumen.data.transforms import Frame, chance, crop, window


@datamodules.register
class Bdd100k(DataModule):
    """images/10k/{train,val}, labels/sem_seg/masks/{train,val} and captions.json, {stem: caption}.

    `root` is the folder bdd100k, into which the archives "10K Images" and "Segmentation" unpack, or the one
    that contains it. The PNG values are Cityscapes' train ids 0-18, and 255 where nothing is labelled. Archives of
    before June 2021 do not match in six images and six maps (bdd100k issue 103), which `lumen data check` names.

    A frame is resized to the height `size`, in its proportions; training looks at a random square of it, evaluation
    at the square in the middle.

    Source: doc.bdd100k.com, download and format.
    """

    classes = tuple(CITYSCAPES.values())
    windows = True

    def __init__(self, root: str, captions: str | None = None, flip: float = 0.5, *, loading: Loading):
        super().__init__(root, loading)
        self.captions, self.flip = captions, flip
        table = lookup(consecutive(list(range(len(self.classes)))))
        self.readers = {"image": picture, "mask": partial(label_map, table=table)}

    def survey(self, split: str) -> Survey:
        inner = self.root / "bdd100k"
        survey = Survey(inner if inner.is_dir() else self.root)
        survey.add("image", (".jpg",), f"images/10k/{split}")
        survey.add("mask", (".png",), f"labels/sem_seg/masks/{split}")
        survey.caption(self.captions, "captions.json")
        return survey

    def frame(self, given: tuple[int, int], draw: torch.Generator | None) -> Frame:
        side, resized = self.loading.size, crop(given, self.loading.size).resized
        return Frame(given, resized, window(resized, (side, side), draw), chance(self.flip, draw))

    @staticmethod
    def fake(root: str | Path) -> None:
        root, said = Path(root) / "bdd100k", {}
        for split, first, count in (("train", 0x0A0A0B33, 6), ("val", 0x7D06FEFC, 3)):
            for i in range(count):
                stem = f"{first + i:08x}-{i:08x}"
                image, mask = root / f"images/10k/{split}/{stem}.jpg", root / f"labels/sem_seg/masks/{split}/{stem}.png"
                write_pair(image, mask, [*range(len(CITYSCAPES)), IGNORE], (96, 54), i)
                said[stem] = f"a road from the dashboard, frame {i}"
        write_json(root / "captions.json", said)
