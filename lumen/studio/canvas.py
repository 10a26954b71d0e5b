"""Canvas of a session: a layout with its edits, the region that is selected, and what a click does."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.studio import edits
from lumen.studio.edits import Cell

MAX_UNDO = 50
TOOLS = {
    "rectangle": "select a rectangle: click two corners",
    "brush": "select with a round brush",
    "similar": "select all cells like this one",
    "move": "move the selection here",
    "copy": "copy the selection here",
    "pick": "pick the look of this cell as paint",
}


@dataclass(frozen=True)
class Canvas:
    """Layout as it is edited; every change returns another canvas.

    Attributes:
        history: The layout before each edit, and last the layout as it is.
        region: Selected cells.
        corner: First corner of a rectangle, until the second one is clicked.
        paint: Vector of the cell that was picked.
        gains: Factor of each component.
    """

    history: tuple[Float[Tensor, "k h w"], ...]
    region: Bool[Tensor, "h w"]
    gains: Float[Tensor, " k"]
    corner: Cell | None = None
    paint: Float[Tensor, " k"] | None = None

    @classmethod
    def of_layout(cls, layout: Float[Tensor, "k h w"]) -> "Canvas":
        """Return a canvas without edits."""
        size = tuple(layout.shape[-2:])
        return cls((layout,), torch.zeros(size, dtype=torch.bool), torch.ones(len(layout)))

    @property
    def edited(self) -> Float[Tensor, "k h w"]:
        """The layout with its edits, before components are weighed."""
        return self.history[-1]

    @property
    def layout(self) -> Float[Tensor, "k h w"]:
        """The layout that steers the samples."""
        return edits.weigh_components(self.edited, self.gains)

    @property
    def size(self) -> Cell:
        """Rows and columns."""
        return tuple(self.region.shape)

    # ---- selection

    def click(self, tool: str, cell: Cell, radius: float, likeness: float) -> "Canvas":
        """Return the canvas after a click on a cell.

        Args:
            tool: Key of `TOOLS`.
            radius: Of the brush, in cells.
            likeness: Least cosine of cells that are alike.
        """
        cell = tuple(min(max(0, place), length - 1) for place, length in zip(cell, self.size, strict=True))
        if tool == "rectangle":
            corner = self.corner or cell
            region = edits.select_rectangle(self.size, corner, cell)
            return replace(self, region=region, corner=None if self.corner else cell)
        if tool == "brush":
            return replace(self, region=self.region | edits.select_disc(self.size, cell, radius), corner=None)
        if tool == "similar":
            return replace(self, region=edits.select_similar(self.layout, cell, likeness), corner=None)
        if tool == "pick":
            return replace(self, paint=self.edited[:, cell[0], cell[1]])
        return self.place(cell, copies=tool == "copy")

    def clear(self) -> "Canvas":
        """Return the canvas without a selection."""
        return replace(self, region=torch.zeros_like(self.region), corner=None)

    # ---- edits

    def place(self, cell: Cell, copies: bool) -> "Canvas":
        """Return the canvas with the selection moved, or copied, so that its middle lies on a cell."""
        region = self._selected()
        places = region.nonzero().float()
        middle = ((places.amin(0) + places.amax(0)) / 2).round().long().tolist()
        step = cell[0] - middle[0], cell[1] - middle[1]
        change = edits.copy_region if copies else edits.move_region
        return self._change(change(self.edited, region, *step), edits.shift(region, *step))

    def mirror(self) -> "Canvas":
        """Return the canvas with left and right of the selection exchanged."""
        region = self._selected()
        return self._change(edits.mirror_region(self.edited, region), edits.mirror(region))

    def erase(self) -> "Canvas":
        """Return the canvas with the selection filled by its surroundings."""
        return self._change(edits.erase_region(self.edited, self._selected()), self.region)

    def fill(self, vector: Float[Tensor, " k"] | None = None) -> "Canvas":
        """Return the canvas with the selection painted, by default like the cell that was picked."""
        vector = self.paint if vector is None else vector
        if vector is None:
            raise BadConfig("there is no paint yet: choose to pick, and click the cell whose look you want.")
        return self._change(edits.paint_region(self.edited, self._selected(), vector), self.region)

    def paste(self, source: Float[Tensor, "k h w"]) -> "Canvas":
        """Return the canvas with the selected cells of another layout."""
        return self._change(edits.paste_region(self.edited, source, self._selected()), self.region)

    def load(self, layout: Float[Tensor, "k h w"], name: str) -> "Canvas":
        """Return the canvas with another layout as an edit.

        Raises:
            BadConfig: It has another shape.
        """
        if layout.shape != self.edited.shape:
            shapes = tuple(layout.shape), tuple(self.edited.shape)
            raise BadConfig(f"{name} has the shape {shapes[0]}, and layouts of this run have {shapes[1]}.")
        return self._change(layout, self.region)

    def undo(self) -> "Canvas":
        """Return the canvas before its last edit."""
        return replace(self, history=self.history[:-1] or self.history) if len(self.history) > 1 else self

    def weigh(self, components: int, enabled: list[int], gain: dict[int, float]) -> "Canvas":
        """Return the canvas with other gains.

        Args:
            components: The first so many count; axes are sorted by their variance, so no other fit is needed.
            enabled: Numbers of components, from 1, that are switched on.
            gain: Gain of a component by its number, where it is not 1.
        """
        numbers = range(1, len(self.gains) + 1)
        gains = [gain.get(k, 1.0) * (k <= components and k in enabled) for k in numbers]
        return replace(self, gains=torch.tensor(gains))

    def _selected(self) -> Bool[Tensor, "h w"]:
        if not self.region.any():
            raise BadConfig("nothing is selected yet: choose a tool, and click on the layout.")
        return self.region

    def _change(self, layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"]) -> "Canvas":
        return replace(self, history=(*self.history, layout)[-MAX_UNDO:], region=region, corner=None)
