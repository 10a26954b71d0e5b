"""Format of samples.parquet: its version, and its description of the columns that make the scores of each metric."""

import json
from typing import TYPE_CHECKING, Any

from lumen.core.readers import require_shape

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2  # of the file; the first one had a row per image and no description
FEATURES = "features"  # name of the column of a metric whose samples have no scores of their own
DESCRIPTION = b"lumen"  # key of the description in the file's metadata
REMEDY = "remove it and the metrics.json beside it, and repeat the run's command"


def column_name(key: str, name: str) -> str:
    """Return the name of a column: the key of a metric, and the name of a number among its scores; "" is its own."""
    return f"{key}.{name}" if name else key


def read_description(schema: "pa.Schema") -> dict[str, Any] | None:
    """Return what a file says of its metrics; None for one of an earlier release, which says nothing.

    Raises:
        ValueError: A later release has written the file, or the description is damaged.
    """
    text = (schema.metadata or {}).get(DESCRIPTION)
    if text is None:
        return None
    description = json.loads(text)
    require_shape(description, {"version": int, "metrics": dict})
    if description["version"] > VERSION:
        raise ValueError(f"a later release of LUMEN has written it, in version {description['version']} of the format")
    entry = {"is_shared": bool, "has_values": bool, "shape": list, "columns": list}
    require_shape(description["metrics"], dict.fromkeys(description["metrics"], entry))
    return description
