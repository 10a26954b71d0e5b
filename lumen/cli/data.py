"""Data sets: their files, and questions about their captions."""

from pathlib import Path

from lumen.cli.command import one, strings, usage, verb, whole
from lumen.config import experiment as configs
from lumen.core.errors import BadConfig, UnknownName, suggestion


@verb("data check")
def check(words: list[str], flags: dict[str, str]) -> int:
    """lumen data check NAME [root=DIR ...]: is a data set complete and readable? what is wrong, where, what next"""
    from lumen.runs.build import build_data

    name = one(words, "NAME", check)
    overrides = [f"data={name}", *(f"data.{key}={value}" for key, value in flags.items())]
    report = build_data(configs.load("scenes" if name == "scenes" else "coco_stuff", overrides)).check()
    print(report)
    return 0 if report.ok else 1


@verb("data render")
def render(words: list[str], flags: dict[str, str]) -> int:
    """lumen data render scenes OUT [format=coco_stuff size=64 train=64 val=16]: draws scenes in a data set's layout"""
    from lumen.scenes.export import write

    if len(words) != 2 or words[0] != "scenes":
        raise UnknownName(f"lumen data render draws 'scenes' into a folder; write: {usage(render)}.")
    known_flags = {"format": "coco_stuff", "size": "64", "train": "64", "val": "16"}
    options = known_flags | flags
    for flag in flags.keys() - known_flags.keys():
        raise BadConfig(f"there is no '{flag}' here; {suggestion(flag, known_flags)}")
    counts = {split: whole(split, options[split]) for split in ("train", "val")}
    write(Path(words[1]), options["format"], counts, whole("size", options["size"]))
    print(f"{counts['train']} train and {counts['val']} val scenes as {options['format']}: {words[1]}")
    return 0


@verb("questions")
def questions(words: list[str], flags: dict[str, str]) -> int:
    """lumen questions EXPERIMENT [out=FILE writer=MODEL reader=MODEL key=value ...]: asks about captions, for tifa"""
    out = Path(flags.pop("out", "questions.json"))
    models = {role: flags.pop(role, None) for role in ("writer", "reader")}
    if out.exists():  # an image that is asked about already is painted with that caption
        flags["measure.questions"] = str(out)
    config = configs.load(one(words, "EXPERIMENT", questions), strings(flags))
    from lumen.evaluation.question_generation import generate_questions
    from lumen.runs.build import accelerator, build_data

    data = build_data(config)
    captions = {record.id: data.prompt(record.captions) for record in data.measured() if record.captions}
    if not captions:
        raise BadConfig(f"{config.experiment} has no captions in files that could be asked about; add captions=FILE.")
    asked = generate_questions(captions, out, **models, device={"gpu": "cuda"}.get(accelerator(config), "cpu"))
    print(f"questions about {asked} of {len(captions)} images: {out}; name it with measure.questions={out}")
    return 0
