"""Cell of a table: the value of one metric for one row, with its statistics."""

from dataclasses import dataclass
from typing import Any

MIN_TESTED_IMAGES = 20  # with fewer, a bootstrap interval is too narrow to call rows different


@dataclass
class Cell:
    """Value of one metric for one row.

    Attributes:
        value: Mean over seeds; None if nothing was measured.
        deviation: Standard deviation between seeds, of several seeds.
        interval: 95 % confidence interval over images and, of several, over seeds.
        range: Smallest and largest value of a reference row that differs between runs.
        best: Whether this is the best row of the column.
        significant: Whether the value differs from the best with 95 % confidence.
        difference: 95 % confidence interval of the value minus that of the table's baseline, on the same images.
    """

    value: float | None = None
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    range: tuple[float, float] | None = None
    best: bool = False
    significant: bool = False
    difference: tuple[float, float] | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Cell":
        """Return the cell whose fields JSON holds."""
        intervals = {key: fields[key] and tuple(fields[key]) for key in ("interval", "difference")}
        return cls(**fields | intervals)
