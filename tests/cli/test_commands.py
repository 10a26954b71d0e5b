"""Commands for a finished run, photos and tables."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import lumen
from lumen.__main__ import main
from lumen.config.experiment import reload
from lumen.core.interfaces import trainable_parameters
from lumen.core.registry import backbones
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.build import build_task
from lumen.runs.checkpoints import restore
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.runs.photos import load_photo
from lumen.training.callbacks import EMA
from lumen.training.tasks.layout_to_image import LayoutToImage


def test_eval_command_writes_a_directory_of_its_own(finished):
    assert main(["eval", str(finished), "sampling.steps=3"]) == 0
    second = json.loads((finished / "eval" / "sampling.steps=3" / "metrics.json").read_text())
    first = json.loads((finished / "metrics.json").read_text())
    assert second["sampling"]["steps"] == 3 and first["sampling"]["steps"] == 2
    assert second["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)


@pytest.mark.long
def test_eval_command_scores_saved_samples_by_other_metrics(finished, monkeypatch, capsys):
    """Samples that one evaluation has saved give the bits that the run itself has measured."""
    first = json.loads((finished / "metrics.json").read_text())
    assert main(["eval", str(finished), "metrics=[lpips]", "measure.save_samples=true", "wandb=disabled"]) == 0
    sample = LayoutToImage.outputs

    def outputs(self, batch, seeds, row="test", *arguments, **options):
        assert row in ("real", "vae"), "sampled again"
        return sample(self, batch, seeds, row, *arguments, **options)

    monkeypatch.setattr(LayoutToImage, "outputs", outputs)
    capsys.readouterr()
    assert main(["eval", str(finished), "metrics=[lpips,tifa]", "wandb=disabled"]) == 0
    assert capsys.readouterr().out.count("the samples of 3 images were read from ") == 3
    second = json.loads(next(finished.glob("eval/*tifa*/metrics.json")).read_text())
    compared = [key for key in second if key.startswith(("test/", "text/", "shuffled/"))]
    assert len(compared) > 6 and {key: first[key] for key in compared} == {key: second[key] for key in compared}


def test_restored_task_has_the_averaged_weights(finished):
    config = reload(load_run_config(finished))
    task = build_task(config, build_data(config))
    path = finished / "checkpoints" / "step00000004.ckpt"
    restore(task, path)
    averaged = torch.load(path, weights_only=True)["callbacks"][EMA.state_key]["shadow_params"]
    assert all(torch.equal(a, b) for a, b in zip(trainable_parameters(task), averaged, strict=True))


def read_png(path):
    """Return the pixels of a picture, and its text."""
    with Image.open(path) as picture:
        return np.asarray(picture), picture.info


def test_sample_command_depends_on_its_seed_alone(finished, photo, workdir):
    for name, overrides in {"one.png": [], "two/": [], "three.png": ["seed=1"]}.items():
        arguments = ["sample", str(finished), str(photo), "a house at night", f"out={name}", *overrides]
        assert main(arguments) == 0
    one, two, three = (read_png(name)[0] for name in ("one.png", "two/sheet.png", "three.png"))
    assert (one == two).all() and (one != three).any()


def test_sample_command_writes_single_images_with_their_recipe(finished, photo, workdir, capsys):
    arguments = ["sample", str(finished), str(photo), "a house", "a tree", "out=pictures", "sampling.images=2"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "photo.jpg has 60 x 40 px and is stretched" in output and "images: pictures" in output
    names = ["0.png", "1.png", "2.png", "3.png", "layout.npy", "layout.png", "sheet.png"]
    assert sorted(path.name for path in (workdir / "pictures").iterdir()) == names
    images = [read_png(f"pictures/{number}.png") for number in range(4)]
    assert [text["prompt"] for _, text in images] == ["a house"] * 2 + ["a tree"] * 2
    for pixels, text in images:
        assert pixels.shape == (32, 32, 3) and text["seed"] == "0"
        assert shlex.split(text["command"])[-4:] == ["a house", "a tree", "out=pictures", "sampling.images=2"]
        assert str(finished) not in text["command"] and str(photo.parent) not in text["command"]
    run = lumen.load_run(finished)
    expected = [image for prompt in ("a house", "a tree") for image in run.sample(photo, prompt, num_samples=2)]
    assert all((pixels == np.asarray(image)).all() for (pixels, _), image in zip(images, expected, strict=True))
    layout = np.load("pictures/layout.npy")
    assert torch.equal(torch.from_numpy(layout), run.task.layout(load_photo(photo, 32))[0])
    assert read_png("pictures/layout.png")[0].shape == (32, 32, 3)
    assert main([*arguments, "seed=1"]) == 0  # pictures of an earlier command are replaced
    Image.new("RGB", (8, 8)).save("pictures/1.png")
    assert main(arguments) == 2 and "LUMEN did not make" in capsys.readouterr().err
    assert read_png("pictures/1.png")[0].shape == (8, 8, 3) and read_png("pictures/0.png")[1]["seed"] == "1"


def test_layout_command_takes_the_basis_of_a_run(finished, photo, workdir, capsys):
    assert main(["layout", str(finished), str(photo), str(photo), "out=a/"]) == 0
    assert "axes were fitted" not in capsys.readouterr().out
    run = lumen.load_run(finished)
    expected = run.task.layout(load_photo(photo, 32))[0].numpy()
    for name in ("layout-0", "layout-1"):
        assert np.array_equal(np.load(f"a/{name}.npy"), expected)
    assert main(["layout", str(finished), str(photo), "out=few/", "conditioning.components=2"]) == 0
    assert np.load("few/layout.npy").shape[0] == 2
    assert main(["layout", str(finished), str(photo), "base=scenes"]) == 2
    assert main(["layout", str(finished)]) == 2 and "PHOTO" in capsys.readouterr().err


def test_commands_of_pictures_do_not_replace_the_photo_that_they_read(finished, photo, capsys):
    before = photo.read_bytes()
    for words in (["layout", str(photo), "base=scenes"], ["sample", str(finished), str(photo), "a house"]):
        assert main([*words, f"out={photo.parent}/./{photo.name}"]) == 2
        assert "would be replaced" in capsys.readouterr().err and photo.read_bytes() == before


@pytest.mark.parametrize("line", ["layout PHOTO base=scenes", "sample RUN PHOTO house", "worst RUN", "compare RUN RUN"])
def test_commands_of_pictures_replace_no_file_of_a_user(line, finished, photo, tmp_path, capsys):
    path, words = tmp_path / "mine.png", {"RUN": str(finished), "PHOTO": str(photo)}
    Image.new("RGB", (8, 8)).save(path)
    before = path.read_bytes()
    assert main([*(words.get(word, word) for word in line.split()), f"out={path}"]) == 2
    assert "LUMEN did not make it" in capsys.readouterr().err and path.read_bytes() == before


OF_SCENES = [name for name in backbones.names() if (SCENES_WEIGHTS / name).is_dir()]


@pytest.mark.parametrize("name", [*OF_SCENES, "fusion", "pixels", "untrained"])
def test_layout_command_takes_every_backbone(name, photo, workdir, capsys):
    assert main(["layout", str(photo), str(photo), "base=scenes", f"backbone={name}", "conditioning.components=4"]) == 0
    pixels, text = read_png("layout.png")
    assert pixels.shape[0] > 1000 and text["command"].startswith("lumen layout photo.jpg photo.jpg base=scenes")
    assert "20 axes were fitted on " in capsys.readouterr().out


def test_table_commands_run_row_by_row_and_print(tiny, workdir, capsys):
    options = ["base=scenes", *tiny, "steps=1", "wandb=disabled"]
    assert main(["ablate", "components", *options, "--print"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 6 and all(c.startswith("lumen train scenes conditioning.components=") for c in commands)
    assert main(["table", "components", *options]) == 0
    assert capsys.readouterr().out.count("0/1") == 6
    assert main(shlex.split(commands[0])[1:]) == 0
    capsys.readouterr()
    assert main(["table", "components", *options]) == 0
    output = capsys.readouterr().out
    assert output.count("1/1") == 1 and "explained variance" in output
