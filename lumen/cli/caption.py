"""Commands for captions: a model describes the images of a data set."""

import os

from lumen.cli.command import command, positive_int, single_argument
from lumen.config.experiment import load
from lumen.core.errors import BadConfig, DatasetMissing
from lumen.core.paths import user_path
from lumen.core.registry import datamodules

MAX_TOKENS = 64  # of a caption


@command("caption", "DATASET [model=ID|DIR root=DIR out=FILE prompt=TEXT batch=8 tokens=64 overwrite=true ...]")
def caption(positionals: list[str], options: dict[str, str]) -> int:
    """Caption the images of a data set that have no caption, into captions.json; the same command continues.

    Options:
        model: Folder or hub id of a BLIP, Florence-2 or Qwen-VL for transformers.
        root: Directory of the data set; further arguments are those of `lumen list NAME`.
        out: File of the captions; by default captions.json of the data set. With it all images are captioned.
        prompt: Beginning of the caption, task or request, as the kind of model wants it.
        batch: Images that are captioned together.
        tokens: Most tokens of a caption.
        overwrite: true: captions that out holds by other models or people are replaced.
        revision: Commit of a hub id.

    Examples:
        lumen caption photos/ model=Salesforce/blip-image-captioning-base
        lumen caption cityscapes root=/data/cityscapes model=/models/qwen out=qwen.json batch=4

    Returns:
        0 if all images have captions, 1 if some cannot be read, 2 after a mistake.
    """
    name = single_argument(positionals, "DATASET", caption)
    if name not in datamodules.names() and os.path.isdir(user_path(name)):
        options = {"root": name} | options
        name = "folder"
    elif "/" in name:
        raise DatasetMissing(f"there is no folder {name}; name a folder of photos, or a data set (`lumen list data`).")
    settings = {key: options.pop(key, None) for key in ("model", "prompt", "revision", "out", "overwrite")}
    batch = positive_int("batch", options.pop("batch", "8"))
    tokens = positive_int("tokens", options.pop("tokens", str(MAX_TOKENS)), 4096)
    if not settings["model"]:
        raise BadConfig("lumen caption needs model=ID|DIR, as in model=Salesforce/blip-image-captioning-base.")
    if settings["overwrite"] not in (None, "true", "false"):
        raise BadConfig(f"overwrite cannot be {settings['overwrite']!r}; write overwrite=true, or leave it out.")
    is_rendered = name in datamodules.names() and "root" not in datamodules.arguments(name) and not settings["out"]
    if is_rendered:
        raise BadConfig(f"the data set {name} has no folder for captions.json; name a file with out=FILE.")
    overrides = [f"data={name}", *(f"data.{key.removeprefix('data.')}={value}" for key, value in options.items())]
    config = load("coco_stuff", overrides)

    from lumen.runs.captions import caption_dataset

    return caption_dataset(config, settings, batch, tokens)
