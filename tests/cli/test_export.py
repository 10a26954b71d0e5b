"""`lumen export`: its programs make what `lumen sample` makes, and its card is one that the Hub reads."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

import lumen
from lumen.__main__ import main
from lumen.conditionings.neural_layout import NeuralLayout
from lumen.core.interfaces.script import FeatureScript
from lumen.features.layout_script import compose_layout_script
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.directory import load_results
from lumen.runs.export import WeightsFolder
from lumen.training import checkpoint_io

PIPELINE = next(Path(__file__).parents[1].glob("runs/fixtures/*/pipeline"))  # of the finished run


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> Path:
    """Folder of an export of the finished run."""
    out = tmp_path_factory.mktemp("export") / "out"
    assert main(["export", str(finished), str(out)]) == 0
    return out


def run_program(path: Path) -> dict:
    """Return the names of a program that imports the one beside it."""
    sys.path.insert(0, str(path.parent))
    try:
        return runpy.run_path(str(path))
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("layout", None)


def test_export_makes_the_images_of_lumen_sample(exported, finished, photo, tmp_path):
    sampled = tmp_path / "samples"
    assert main(["sample", str(finished), str(photo), "a red house", "sampling.images=2", f"out={sampled}/"]) == 0
    out = shutil.copytree(exported, tmp_path / "out")
    shutil.copytree(PIPELINE, out / "base")
    shutil.copyfile(SCENES_WEIGHTS / "sd" / "model_index.json", out / "base" / "model_index.json")
    program = (out / "pipeline.py").read_text()
    assert repr(str(PIPELINE)) in program
    (out / "pipeline.py").write_text(program.replace(repr(str(PIPELINE)), 'HERE / "base"'))
    pipeline = run_program(out / "pipeline.py")["load"]()
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(Image.open(photo), "a red house", seed=0, num_images=2).images
    for number, image in enumerate(images):
        own = np.array(Image.open(sampled / f"{number}.png")).astype(int)
        difference = np.abs(own - np.array(image))
        assert difference.max() <= 1 and (difference > 0).mean() <= 1e-3
    layout = lumen.load_run(finished).layout(photo)
    assert torch.equal(layout, torch.from_numpy(np.load(sampled / "layout.npy")))


def test_export_takes_averaged_weights_or_raw_ones(exported, finished, tmp_path):
    assert lumen.load_run(finished).export(tmp_path / "raw", "raw") == tmp_path / "raw"
    state = checkpoint_io.read(checkpoint_io.newest(finished / "checkpoints"))["state_dict"]
    key = "conv_in.weight"
    averaged, raw = (ControlNetModel.from_pretrained(out / "controlnet") for out in (exported, tmp_path / "raw"))
    assert torch.equal(raw.state_dict()[key], state[f"diffusion.controlnet.{key}"])
    assert not torch.equal(averaged.state_dict()[key], raw.state_dict()[key])
    assert "averaged weights" in (exported / "README.md").read_text()
    assert "raw weights" in (tmp_path / "raw" / "README.md").read_text()


def test_export_is_evaluated_as_the_run_that_it_is_of(exported, finished, tiny, tmp_path):
    flags = [
        f"diffusion.controlnet={exported}",
        "steps=0",
        f"runs={tmp_path}",
        f"conditioning.basis={exported}/basis.safetensors",
    ]
    assert main(["train", "scenes", *tiny, *flags]) == 0
    results = load_results(next(tmp_path.glob("scenes/*/seed0")))
    assert results["val/loss"] == load_results(finished)["val/loss"] and results["steps"] == 0


def test_export_has_a_card_with_the_metrics_of_the_run(exported, finished):
    card, results = ModelCard.load(exported / "README.md"), load_results(finished)
    assert card.data.library_name == "diffusers" and card.data.model_name == "ControlNet on neural_layout of dino"
    _, evaluations = model_index_to_eval_results(card.data.to_dict()["model-index"])
    values = {evaluation.metric_type: evaluation for evaluation in evaluations}
    assert values["miou"].metric_value == results["test/miou"]
    assert values["miou"].metric_args == {"interval_95": results["test/miou_95"]}
    assert values["miou"].dataset_args["protocol"] == results["protocol"]["hash"]
    assert results["protocol"]["hash"] in card.text and "{{" not in card.text
    seeds = run_program(exported / "pipeline.py")["sample_seed"]
    assert f"[{seeds(0, 0)}]" in card.text


def test_export_without_a_program_for_the_layout_says_so(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(NeuralLayout, "script", lambda *_: None)  # as that of segmap
    out = tmp_path / "out"
    assert main(["export", str(finished), str(out), "sampling.steps=7"]) == 0
    assert "layout.py is left out" in capsys.readouterr().out and not (out / "layout.py").exists()
    pipeline = (out / "pipeline.py").read_text()
    compile(pipeline, "pipeline.py", "exec")
    assert "photo" not in pipeline and '"num_inference_steps": 7' in pipeline
    assert "python layout.py" not in (out / "README.md").read_text()


def test_export_names_weights_of_scenes_by_a_copy_of_the_hub_by_commit_and_others_by_path(tmp_path):
    locate, snapshot = WeightsFolder(tmp_path), "/cache/hub/models--timm--vit_small.dino/snapshots/c0ffee"
    assert locate(str(SCENES_WEIGHTS / "dino"), "backbone") == 'HERE / "backbone"'
    assert (tmp_path / "backbone" / "config.json").read_bytes() == (SCENES_WEIGHTS / "dino/config.json").read_bytes()
    assert locate(snapshot, "base") == '"timm/vit_small.dino", revision="c0ffee"'
    assert locate("/data/dino", "backbone") == "'/data/dino'"
    script = FeatureScript("timm", "import timm", f"WEIGHTS = {locate(snapshot, 'backbone')}", "return image")
    program = compose_layout_script(script, 3, "none", 64, None)
    compile(program, "layout.py", "exec")
    assert "import snapshot_download" in program


def test_export_of_a_folder_that_diffusers_does_not_open_says_so(tmp_path, capsys):
    assert WeightsFolder(tmp_path)(str(PIPELINE), "base") == repr(str(PIPELINE))
    assert "has no model_index.json" in capsys.readouterr().out
    shutil.copytree(PIPELINE, tmp_path / "whole")
    shutil.copyfile(SCENES_WEIGHTS / "sd" / "model_index.json", tmp_path / "whole" / "model_index.json")
    WeightsFolder(tmp_path)(str(tmp_path / "whole"), "base")
    assert "model_index" not in capsys.readouterr().out


class Hub:
    """Stand-in for the Hub, which keeps what is uploaded to it."""

    uploads: dict[str, list[str]] = {}

    def create_repo(self, name, exist_ok):
        return f"https://hub/{name}"

    def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
        self.uploads[repo_id] = sorted({path.name for path in Path(folder_path).iterdir()} - {*ignore_patterns})


@pytest.mark.parametrize("licence", ["", "Its photos belong to others."])
def test_export_is_uploaded_without_pictures_of_others(finished, tmp_path, monkeypatch, capsys, licence):
    monkeypatch.setattr("lumen.runs.export.data_licence", lambda _: licence)
    monkeypatch.setattr("lumen.runs.hub.get_token", lambda: "token")
    monkeypatch.setattr("lumen.runs.hub.HfApi", Hub)
    assert main(["export", str(finished), str(tmp_path / "out"), "push=me/layouts"]) == 0
    output = capsys.readouterr().out
    assert "https://hub/me/layouts" in output and licence in output
    assert ("samples.png" in Hub.uploads["me/layouts"]) == (not licence)
    assert {"README.md", "controlnet", "layout.py", "pipeline.py"} <= set(Hub.uploads["me/layouts"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a run and a folder are needed"),
        (["weights=best"], "averaged"),
        (["push=layouts"], "push=USER/NAME"),
        (["push=me/layouts"], "hf auth login"),
    ],
)
def test_export_refuses_mistakes_and_writes_nothing(finished, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setattr("lumen.runs.hub.get_token", lambda: None)
    out = tmp_path / "parent" / "out"
    assert main(["export", str(finished), *([str(out)] if words else []), *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_export_refuses_a_folder_that_exists_and_a_run_that_is_not_finished(finished, exported, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    assert main(["export", str(finished), str(exported)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "not finished" in capsys.readouterr().err


def test_export_that_fails_leaves_nothing(finished, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumen.runs.export.write_card", fail)
    assert main(["export", str(finished), str(tmp_path / "out")]) == 2
    assert "No space left" in capsys.readouterr().err and not list(tmp_path.iterdir())
