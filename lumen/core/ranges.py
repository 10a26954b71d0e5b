"""Ranges of numbers that a config may set; each stands in the annotation of its number."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Range of a number, both ends included and finite, as in `Annotated[int, Range(1, 8)]`."""

    low: float
    high: float

    def resolve(self, arguments: Mapping[str, Any]) -> "Range | None":
        """Return the range beside the other arguments of the component."""
        return self

    def find_problem(self, value: Any) -> str | None:
        """Return the half sentence about a number outside of the range, alone or in a list; other values pass."""
        items = value if isinstance(value, (list, tuple)) else [value]
        numbers = [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]
        outside = [number for number in numbers if not self.low <= number <= self.high]  # nan is in no range
        if outside or not items:
            given = reprlib.repr(outside[0] if outside else value)
            return f"must be between {self.low:,} and {self.high:,}, not {given}"
        return None


class LayerRange:
    """Range of layers of a network, counted from 0 or backwards from -1.

    The depth of a network is known by `size` unless it has weights of its own, and by `weights` if these have a name
    here. The depth of any other network is verified when it is loaded.

    Args:
        depths: Number of layers by `size` or `weights`.
    """

    def __init__(self, **depths: int):
        self.depths = depths

    def resolve(self, arguments: Mapping[str, Any]) -> Range | None:
        """Return the range beside the other arguments; None if the depth is not known."""
        weights = arguments.get("weights")
        depth = self.depths.get(arguments.get("size") if weights in ("published", "none") else weights)
        return Range(-depth, depth - 1) if depth else None


Count = Annotated[int, Range(1, 1_000_000_000)]
"""Number of things of which there is at least one."""
Share = Annotated[float, Range(0, 1)]
"""Share of a whole, or a probability."""
Seed = Annotated[int, Range(-(2**63), 2**63 - 1)]
"""Seed of random numbers."""
