"""Photos of users: made square in three ways, and sampled whenever validation ends."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import loggers as lightning_loggers
from PIL import Image

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.config.identity import config_digest, run_name
from lumen.core.visualize import load_grid, to_uint8
from lumen.data.readers import read_photo
from lumen.data.transforms import FITS, GREY
from lumen.runs.photos import describe_fit, load_photo
from lumen.training.loggers import log_picture

WORDS = ["validation_images=[a.png,b.png]", 'validation_prompts=["a red house, at night",a tree]']


@pytest.fixture
def photos(workdir):
    """Two photos of the working directory: red, 40 x 20 px with blue ends, and a square one."""
    wide = Image.new("RGB", (40, 20), (255, 0, 0))
    wide.paste((0, 0, 255), (0, 0, 4, 20))
    wide.paste((0, 0, 255), (36, 0, 40, 20))
    wide.save("a.png")
    Image.new("RGB", (30, 30), (0, 255, 0)).save("b.png")
    return [Path("a.png"), Path("b.png")]


def square(path, fit):
    return to_uint8(load_photo(path, 20, fit=fit).image[0]).numpy()


def test_stretched_photo_is_resized_as_a_whole(photos):
    expected = np.asarray(read_photo(photos[0]).resize((20, 20), Image.Resampling.LANCZOS))
    assert (square(photos[0], "stretch") == expected).all()
    assert torch.equal(load_photo(photos[0], 20).image, load_photo(photos[0], 20, fit="stretch").image)


def test_cropped_photo_is_its_middle_and_padded_photo_has_bars(photos):
    assert (square(photos[0], "crop") == (255, 0, 0)).all()
    padded = square(photos[0], "pad")
    assert (padded[[0, 4, 15, 19]] == GREY).all() and (padded[5:15, 0] == (0, 0, 255)).all()


@pytest.mark.parametrize("fit", FITS)
def test_square_photo_is_the_same_however_it_is_fitted(photos, fit):
    assert (square(photos[1], fit) == (0, 255, 0)).all()
    assert describe_fit(read_photo(photos[1]), photos[1], fit) is None
    assert "40 x 20" in describe_fit(read_photo(photos[0]), photos[0], fit)


def test_validation_photos_are_no_part_of_a_runs_identity(workdir):
    plain, config = (dump(load("scenes", words)) for words in ([], WORDS))
    assert config["validation_prompts"] == ["a red house, at night", "a tree"]
    assert run_name(plain) == run_name(config) and config_digest(plain) == config_digest(config)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validation_images=[a.png]"], "1 photos, and validation_prompts 0"),
        (["validation_images=[a.png]", "validation_prompts=[a,b]"], "validation_prompts 2"),
        (["validation_images=[none.png]", "validation_prompts=[a]"], "none.png does not exist"),
        (["validation_images=[c.png]", "validation_prompts=[a]"], "c.png"),
    ],
)
def test_validation_photos_that_cannot_be_used_are_refused_before_a_run_begins(photos, words, message, capsys):
    Path("c.png").write_bytes(b"no picture")
    assert main(["train", "scenes", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and not Path("runs").exists()


@pytest.mark.parametrize(
    ("kind", "method"),
    [(lightning_loggers.TensorBoardLogger, "add_image"), (lightning_loggers.MLFlowLogger, "log_image")],
)
def test_picture_reaches_loggers_that_show_pictures(kind, method, monkeypatch):
    calls = []

    def record(*arguments, **options):
        calls.append([*arguments, *options.values()])

    monkeypatch.setattr(kind, "experiment", SimpleNamespace(**{method: record}))
    monkeypatch.setattr(kind, "run_id", "id", raising=False)
    picture = Image.new("RGB", (4, 2), "red")
    log_picture(kind.__new__(kind), "validation", picture, 7)
    log_picture(lightning_loggers.CSVLogger.__new__(lightning_loggers.CSVLogger), "validation", picture, 7)
    (call,) = calls
    (pixels,) = [value for value in call if isinstance(value, np.ndarray)]
    assert pixels.shape == (2, 4, 3) and {"validation", 7} <= {value for value in call if value is not pixels}


@pytest.mark.long
def test_validation_photos_are_drawn_and_change_no_bit_of_training(photos, tiny, workdir):
    flags = [*tiny, "data.images=8", "steps=2", "metrics=[]", "measure.images=2", "validation=2", "workers=0"]
    flags += ["every.validate=1", "every.log=1", "sampling.steps=2", "sampling.images=2", "wandb=disabled"]
    histories = []
    for runs, words in (("plain", []), ("drawn", WORDS)):
        assert main(["train", "scenes", *flags, f"runs={runs}", *words]) == 0
        (run,) = Path(runs).glob("scenes/*/seed0")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        histories.append([{k: v for k, v in line.items() if k != "train/images_per_s"} for line in lines])
    assert histories[0] == histories[1] and not list(Path("plain").rglob("validation.png"))
    rows, captions, titles = load_grid(run / "validation.png", 4)
    assert captions == ["a red house, at night", "a tree"] and titles == ["image", "layout", "sample 1", "sample 2"]
    assert main(["sample", str(run), "a.png", captions[0], "out=out/"]) == 0
    for number in range(2):
        image = np.asarray(Image.open(f"out/{number}.png"))
        assert (np.asarray(rows[0][2 + number])[:: 160 // 32, :: 160 // 32] == image).all()
