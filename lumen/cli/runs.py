"""One run: trained, measured again, certified; pictures of it."""

from hashlib import sha256
from pathlib import Path

from lumen.cli.command import one, strings, usage, verb
from lumen.config import experiment as configs
from lumen.core.errors import UnknownName


@verb("train")
def train(words: list[str], flags: dict[str, str]) -> int:
    """lumen train EXPERIMENT [key=value ...]: trains, then measures; the same command goes on with a run"""
    config = configs.load(one(words, "EXPERIMENT", train), strings(flags))
    from lumen.runs import train as run

    run.train(config)
    return 0


@verb("certify")
def certify(words: list[str], flags: dict[str, str]) -> int:
    """lumen certify EXPERIMENT [steps=6 key=value ...]: is a run that is killed and continued the same, bit by bit?"""
    from lumen.runs.certify import certified

    return 0 if certified(one(words, "EXPERIMENT", certify), strings(flags)) else 1


@verb("eval")
def evaluate(words: list[str], flags: dict[str, str]) -> int:
    """lumen eval RUN [key=value ...]: measures a trained run again, with other sampling or seeds"""
    from lumen.runs.directory import saved

    place = Path(one(words, "RUN", evaluate))
    config = configs.reload(saved(place), strings(flags))
    from lumen.runs import evaluate as run

    run.evaluate(place, config)
    return 0


@verb("sample")
def sample(words: list[str], flags: dict[str, str]) -> int:
    """lumen sample RUN PHOTO "a prompt" [out=FILE seed=0 key=value ...]: pictures with the photo's layout"""
    from lumen.runs.directory import saved
    from lumen.runs.sample import draw_samples

    if len(words) != 3:
        raise UnknownName(f"a run, a photo and a prompt are needed; write: {usage(sample)}.")
    place, photo, prompt = Path(words[0]), Path(words[1]), words[2]
    name = f"{photo.stem}-{sha256(' '.join([*words, *strings(flags)]).encode()).hexdigest()[:8]}.png"
    out = Path(flags.pop("out", place / "samples" / name))
    draw_samples(place, configs.reload(saved(place), strings(flags)), photo, prompt, out)
    print(f"picture: {out}")
    return 0


@verb("layout")
def layout(words: list[str], flags: dict[str, str]) -> int:
    """lumen layout PHOTO ... [base=EXPERIMENT out=FILE key=value ...]: image | layout | each component, as a picture"""
    from lumen.runs.sample import draw_layouts

    if not words:
        raise UnknownName(f"which photo? Write: {usage(layout)}.")
    out = Path(flags.pop("out", "layout.png"))
    config = configs.load(flags.pop("base", "coco_stuff"), strings({"data": "scenes"} | flags))
    draw_layouts([Path(word) for word in words], config, out)
    print(f"picture: {out}")
    return 0
