"""Captions of a file of the user or of COCO, matched to the images that a data set has."""

from pathlib import Path
from typing import Any

from lumen.core.errors import BadSample
from lumen.core.text import is_unicode
from lumen.data.readers import read_json

MAX_KEYS = 3  # of a record that a sentence names


def read_captions(path: Path) -> dict[str, Any]:
    """Read captions by the name of their image, from COCO's format or from {name: caption or captions}.

    Values are returned as they are, because only those of images that a data set has must be right.

    Raises:
        BadSample: The file has another format.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadSample(f"{path} is neither {{stem: caption}} nor COCO's captions; write it in one of the two.")
    if not isinstance(content.get("annotations"), list):
        return content
    try:
        return _group_annotations(content["images"], content["annotations"])
    except ValueError as error:
        raise BadSample(f"{path} cannot be matched to images ({error}); correct the ids.") from None
    except (KeyError, TypeError, AttributeError):
        raise BadSample(
            f"{path} has annotations that are not COCO's captions, which have image_id and caption, and images with "
            "id and file_name; name the file of captions."
        ) from None


def _group_annotations(images: list[dict], annotations: list[dict]) -> dict[str, list]:
    """Return COCO's captions by stem. Annotations of images that are not listed belong to a larger set."""
    stems: dict[Any, str] = {}
    for image in images:
        id, name = image["id"], image["file_name"].replace("\\", "/").rpartition("/")[2]
        stem = name.rpartition(".")[0] or name
        if stems.setdefault(id, stem) != stem or stems.setdefault(str(id), stem) != stem:
            raise ValueError(f"both {stems[str(id)]} and {stem} have the id {id}")
    captions: dict[str, list] = {stem: [] for stem in stems.values()}
    for annotation in annotations:
        id, caption = annotation["image_id"], annotation["caption"]
        stem = stems.get(id, stems.get(str(id)))
        if stem is not None:
            captions[stem].append(caption)
    return captions


def as_captions(value: Any) -> list[str]:
    """Return a caption, or a list of captions, as a list without spaces around them.

    Raises:
        ValueError: It is something else; the message describes it.
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list):
        raise ValueError(_describe(value))
    for caption in captions:
        if not isinstance(caption, str):
            raise ValueError(f"a list with {_describe(caption)}")
        if not is_unicode(caption):
            raise ValueError("no Unicode text")
    return [caption.strip() for caption in captions]


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        keys = ", ".join(map(repr, list(value)[:MAX_KEYS]))
        return f"a record with the keys {keys}" if value else "an empty record"
    names = {type(None): "null", bool: "true or false", list: "a list"}
    return names.get(type(value), "a number")
