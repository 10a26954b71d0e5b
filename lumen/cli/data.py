"""Commands for data sets: check and render their files, generate questions about their captions."""

from lumen.cli.command import as_overrides, command, positive_int, single_argument
from lumen.config.experiment import load
from lumen.core.errors import BadConfig, UnknownName, suggestion
from lumen.core.paths import user_path


@command("data check", "NAME [root=DIR ... --all]")
def check(positionals: list[str], options: dict[str, str]) -> int:
    """Check that a data set is complete and readable, file by file; --all lists every problem.

    Options:
        root: Directory of the data set; further arguments are those of `lumen list NAME`.
        --all: List every problem, not only the first ones of each kind.

    Examples:
        lumen data check coco_stuff root=/data/coco
        lumen data check ade20k root=/data/ade20k --all

    Returns:
        0 if the data set is complete, 1 if it is not, 2 after a mistake.
    """
    from lumen.runs.data import build_source

    complete = options.pop("--all", None) is not None
    name = single_argument(positionals, "NAME", check)
    overrides = [f"data={name}", *(f"data.{key.removeprefix('data.')}={value}" for key, value in options.items())]
    report = build_source(load("scenes" if name == "scenes" else "coco_stuff", overrides)).check()
    print(report.format(complete))
    return 0 if report.ok else 1


@command("data render", "scenes OUT [format=coco_stuff size=64 train=64 val=16]")
def render(positionals: list[str], options: dict[str, str]) -> int:
    """Render scenes into files in the format of a data set.

    Options:
        format: Data set whose format the files have.
        size: Pixels of a side.
        train: Training images.
        val: Validation images.

    Examples:
        lumen data render scenes data/scenes
        lumen data render scenes data/ade format=ade20k size=128 train=256
    """
    from lumen.scenes.export import export_scenes

    if len(positionals) != 2 or positionals[0] != "scenes":
        raise UnknownName(f"lumen data render takes 'scenes' and a directory; write: {render.usage}.")
    defaults = {"format": "coco_stuff", "size": "64", "train": "64", "val": "16"}
    for key in options.keys() - defaults.keys():
        raise BadConfig(f"lumen data render has no '{key}'; {suggestion(key, defaults)}")
    values = defaults | options
    counts = {split: positive_int(split, values[split]) for split in ("train", "val")}
    export_scenes(user_path(positionals[1]), values["format"], counts, positive_int("size", values["size"], 16_384))
    print(f"{counts['train']} train and {counts['val']} val scenes as {values['format']}: {positionals[1]}")
    return 0


@command("questions", "EXPERIMENT [out=FILE writer=MODEL reader=MODEL key=value ...]")
def questions(positionals: list[str], options: dict[str, str]) -> int:
    """Generate questions about the captions of an experiment's evaluated images, for the metric tifa.

    Options:
        out: Path of the questions; questions.json by default. A file that exists is continued.
        writer: Folder or hub id of the language model that writes the questions.
        reader: Folder or hub id of the model that answers them, by which they are kept or not.

    Examples:
        lumen questions coco_stuff data.root=/data/coco
        lumen questions coco_stuff data.root=/data/coco out=coco.json measure.images=100
    """
    out = user_path(options.pop("out", "questions.json"))
    models = {role: options.pop(role, None) for role in ("writer", "reader")}
    if out.exists():  # an image that the file has questions about is generated from the caption of those questions
        options["measure.questions"] = str(out)
    config = load(single_argument(positionals, "EXPERIMENT", questions), as_overrides(options))
    from lumen.evaluation.question_generation import generate_questions
    from lumen.runs.build import accelerator
    from lumen.runs.data import build_source

    source = build_source(config)
    records = [record for record in source.eval_records() if record.captions]
    if not records:
        raise BadConfig(f"{config.experiment} has no captions in files to ask questions about; add data.captions=FILE.")
    captions = {record.id: source.select_caption(record.captions) for record in records}
    count = generate_questions(captions, out, **models, device={"gpu": "cuda"}.get(accelerator(config), "cpu"))
    print(f"questions about {count} of {len(captions)} images: {out}; use them with measure.questions={out}")
    return 0
