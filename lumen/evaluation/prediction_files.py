"""Files of predicted 3D boxes, as Cityscapes' 3D benchmark reads them: predBbox3d/ID_predBbox3d.json."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from lumen.core.boxes import array_to_boxes
from lumen.core.files import write_json

KIND = "predBbox3d"  # name of the folder, and end of the name of each file


class PredictionFiles:
    """Predicted boxes of an evaluation, one file per image.

    Args:
        directory: Directory of the evaluation's results.
        box_classes: Class names of boxes.
    """

    def __init__(self, directory: Path, box_classes: Sequence[str]):
        self.directory, self.box_classes = directory / KIND, box_classes

    def lacks(self, ids: Sequence[str]) -> bool:
        """Return whether some of these images have no file."""
        return not all(self._path(image_id).exists() for image_id in ids)

    def save(self, ids: Sequence[str], boxes: Float[Tensor, "b 1 m 16"]) -> None:
        """Write the boxes of a batch."""
        for image_id, rows in zip(ids, boxes[:, 0].cpu().numpy(), strict=True):
            write_json(self._path(image_id), {"objects": array_to_boxes(rows, self.box_classes)})

    def _path(self, image_id: str) -> Path:
        name = re.sub(r"[^\w.-]", "_", image_id, flags=re.ASCII)
        return self.directory / f"{name}_{KIND}.json"
