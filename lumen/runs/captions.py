"""Captions of a data set by a model, into a file that the data set reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lumen.config.schema import Config
from lumen.core.locks import lock_directory
from lumen.core.paths import user_path
from lumen.core.registry import datamodules
from lumen.core.text import escape_line
from lumen.data.index import ImageRecord
from lumen.data.source import DataSource
from lumen.evaluation.caption_file import CaptionFile, write_captions
from lumen.evaluation.captioner import Captioner, find_model
from lumen.runs.build import device
from lumen.runs.data import build_source

DEFAULT_FILE = "captions.json"


def caption_dataset(config: Config, settings: dict[str, Any], batch_size: int, max_tokens: int) -> int:
    """Caption the images of both splits of a data set, and print where the captions are.

    Args:
        settings: model, prompt, revision, out and overwrite, as they are typed; None where they are not.

    Returns:
        0 if all images have captions, else 1.

    Raises:
        RunBusy: Another command writes these captions.
    """
    source, out = build_source(config), settings["out"]
    source.needs_captions = False
    records = [record for split in ("train", "val") for record in source.records(split)]
    path = user_path(out) if out else source.root / DEFAULT_FILE
    model = find_model(settings["model"], settings["revision"], settings["prompt"])
    author = {"model": settings["model"], "commit": model.commit, "prompt": model.prompt, "tokens": max_tokens}
    with _lock(path):
        file = CaptionFile(path, author, [record.id for record in records])
        todo = _find_images(source, records, file, out is not None, settings["overwrite"] == "true")
        caption = Captioner(model, max_tokens, device(config)).caption if todo else None
        problems = write_captions(todo, file, caption, batch_size)
    for problem in problems:
        print(f"problem: {escape_line(problem)}")
    print(f"{len(todo) - len(problems):,} images captioned, {len(records) - len(todo):,} had captions: {path}")
    has_argument = "captions" in datamodules.arguments(config.data["name"])
    if has_argument and (out or source.name == "coco_stuff"):  # which reads COCO's own files by default
        print(f"use them with data.captions={out or path}")
    return 1 if problems else 0


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file of captions, which lies beside it for so long."""
    name = f".{path.name}.lock"
    with lock_directory(path.parent, name):
        try:
            yield
        finally:
            (path.parent / name).unlink(missing_ok=True)


def _find_images(
    source: DataSource, records: list[ImageRecord], file: CaptionFile, is_named: bool, overwrite: bool
) -> dict[str, partial]:
    """Return readers of the images to caption.

    Args:
        is_named: Whether the user names the file; then captions elsewhere do not count.
    """
    return {
        record.id: partial(_read_image, source, record)
        for record in records
        if file.needs(record.id, overwrite) and (is_named or overwrite or not record.captions)
    }


def _read_image(source: DataSource, record: ImageRecord) -> Image.Image:
    """Return an image without its label map, if it is a file of its own."""
    if path := record.files.get("image"):
        return source.readers["image"](path)
    return source.read(record)["image"]
