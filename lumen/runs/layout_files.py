"""Files of layouts: NumPy arrays of (k, h, w), as `lumen sample out=DIR` and the studio write them."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadConfig, BadSample
from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch, Task
from lumen.core.readers import explain_damage

REMEDY = "name a layout.npy that lumen sample or the studio wrote"


def save_layout(path: Path, layout: Float[Tensor, "k h w"]) -> None:
    """Write a layout; it is read again to the bit."""
    with atomic_path(path) as draft, open(draft, "wb") as file:
        np.save(file, layout.float().cpu().numpy(), allow_pickle=False)


def load_layout(path: Path) -> Float[Tensor, "1 k h w"]:
    """Return a layout as a batch of one.

    Raises:
        BadSample: The file is missing, damaged, or holds other numbers than those of a layout.
    """
    if not path.is_file():
        raise BadSample(f"{path} does not exist, or is no file; {REMEDY}.")
    with explain_damage(path, REMEDY):
        values = np.lib.format.open_memmap(path, mode="r")
        if values.ndim != 3 or values.dtype.kind != "f" or not values.size:
            raise ValueError(f"it holds {values.dtype} of the shape {values.shape}, not numbers of (k, h, w)")
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
    return torch.from_numpy(values)[None]


def verify_layout(task: Task, batch: Batch, layout: Float[Tensor, "1 k h w"], path: Path) -> None:
    """Verify that a task takes a layout in place of that of a photo.

    Raises:
        BadConfig: It takes none.
        BadSample: The layout has another shape than its own.
    """
    if not task.takes_layouts:
        raise BadConfig(f"layout={path}: this run takes no layouts from files; leave layout= out.")
    expected = tuple(task.layout(batch).shape[1:])
    if tuple(layout.shape[1:]) != expected:
        raise BadSample(
            f"{path} has the shape {tuple(layout.shape[1:])}, and layouts of this run have {expected}; name a layout "
            "that was made with this run."
        )
