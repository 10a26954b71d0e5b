"""Copies of an image of a data set under another name: a generated image with the annotations of the original."""

from pathlib import Path

from lumen.data.index import ImageRecord

Files = dict[str, tuple[Path, bytes]]  # path and content of a file by its kind; those of the image come from elsewhere


def copy_files(record: ImageRecord, name: str, root: Path, captions: str = "captions.json") -> Files:
    """Return the files of a copy of an image: its annotations as they are, under the copy's name.

    Args:
        root: Directory of the data set; paths are relative to it.
        captions: Path of the file of captions, which all images share.
    """
    files: Files = {"captions": (Path(captions), b"")}
    for kind, path in record.files.items():
        relative = path.relative_to(root).with_name(path.name.replace(record.id, name, 1))
        content = b"" if kind == "image" else path.read_bytes()
        files[kind] = relative.with_suffix(".png") if kind == "image" else relative, content
    return files
