"""Files of pictures that a command makes: one sheet, or a directory of single pictures beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumen.core.errors import Mistake
from lumen.core.files import atomic_path
from lumen.core.picture_recipes import has_recipe, verify_replaceable
from lumen.core.visualize import save_png, to_uint8
from lumen.runs.layout_files import save_layout


@dataclass(frozen=True)
class PictureFiles:
    """Place of a command's pictures.

    Attributes:
        path: File of the sheet, or directory.
        is_directory: Whether single pictures are written beside the sheet.
        recipe: Text that every PNG file holds: the command, and the seed.
    """

    path: Path
    is_directory: bool
    recipe: dict[str, str]

    def verify(self, names: list[str]) -> None:
        """Verify that no file of a user would be replaced; pictures of an earlier command may be.

        Raises:
            Mistake: One would.
        """
        if not self.is_directory:
            verify_replaceable(self.path)
            return
        for path in (self.path / f"{name}.png" for name in ["sheet", *names]):
            values = path.with_suffix(".npy")
            if (path.exists() and not has_recipe(path)) or (values.exists() and not path.exists()):
                raise Mistake(f"{path.parent} holds a {path.stem} that LUMEN did not make; choose another out=DIR.")

    def save_sheet(self, sheet: Image.Image, text: dict[str, Any]) -> None:
        """Write the sheet, with further text as JSON."""
        path = self.path / "sheet.png" if self.is_directory else self.path
        self._save(path, sheet, {key: json.dumps(value) for key, value in text.items()})

    def save_picture(self, name: str, image: Float[Tensor, "3 H W"], text: dict[str, str]) -> None:
        """Write a picture in [-1, 1], if single pictures are wanted."""
        if self.is_directory:
            self._save(self.path / f"{name}.png", Image.fromarray(to_uint8(image).numpy()), text)

    def save_layout(
        self,
        name: str,
        image: Float[Tensor, "1 3 H W"],
        picture: Float[Tensor, "1 3 _ _"],
        layout: Float[Tensor, "1 k _ _"] | None,
    ) -> None:
        """Write a layout as a picture of the size of its image, and its values as a NumPy array of (k, h, w)."""
        if layout is None or not self.is_directory:
            return
        enlarged = F.interpolate(picture.float(), tuple(image.shape[-2:]), mode="nearest")
        self.save_picture(name, enlarged[0] * 2 - 1, {})
        save_layout(self.path / f"{name}.npy", layout[0])

    def _save(self, path: Path, picture: Image.Image, text: dict[str, str]) -> None:
        with atomic_path(path) as draft:
            save_png(picture, draft, self.recipe | text)
