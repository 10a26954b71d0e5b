"""The evaluators of the offline world are trained, saved and loaded like any other, and measured as the field does."""

import numpy as np
import pytest
import timm
import torch
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation

from lumen.core.errors import WeightsMissing
from lumen.features import hed as edges
from lumen.scenes.recipes import depth, features, midas, segmenter
from lumen.scenes.recipes import hed as edge_recipe
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.augmentations import softened
from lumen.scenes.world import CLASSES


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """One folder for all of them, so that the scenes are drawn once."""
    root = tmp_path_factory.mktemp("evaluators")
    return root, root / "work"


def segments(folder, image):
    network = AutoModelForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32)
    assert tuple(network.config.id2label.values()) == CLASSES
    shown = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    assert torch.allclose(shown, torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, atol=1e-5)
    assert network(shown).logits.shape == (1, len(CLASSES), 32, 32)


def estimates(folder, image):
    network = AutoModelForDepthEstimation.from_pretrained(folder, dtype=torch.float32)
    shown = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    assert torch.allclose(shown, torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, atol=1e-5)
    assert (network(shown).predicted_depth >= 0).all()


def finds_edges(folder, image):
    found = edges.load(folder)(torch.tensor(image).permute(2, 0, 1)[None].float())
    assert found.shape == (1, 64, 64) and found.min() > 0 and found.max() < 1


def compares(folder, image):
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(network)
    assert settings["input_size"] == (3, 64, 64) and tuple(settings["mean"]) == (0.5, 0.5, 0.5)
    stages = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert [x.shape[-1] for x in stages(torch.zeros(1, 3, 64, 64))] == [32, 16, 8, 4, 2]
    assert network.num_features == 192 and network.num_classes == len(features.LABELS)


LOADS = {"depth": estimates, "segmenter": segments, "midas": estimates, "edges": finds_edges, "features": compares}


@pytest.mark.parametrize("name", LOADS)
def test_an_evaluator_is_trained_measured_and_loads_the_ordinary_way(name, places, capsys):
    root, work = places
    flags = ["steps=2", "batch=2", "images=8", "held_out=4", f"work={work}"]
    if name == "depth" and not (root / "segmenter").is_dir():
        assert main([name, *flags, f"out={root / name}"]) == 2
        assert "run the recipe segmenter first" in capsys.readouterr().err
        assert main(["segmenter", *flags, f"out={root / 'segmenter'}"]) == 0
    assert main([name, *flags, f"out={root / name}"]) == 0
    assert ", test seeds: " in capsys.readouterr().out
    assert ", test seeds |" in (root / name / "README.md").read_text()
    LOADS[name](root / name, np.load(work / "test-4-64" / "image.npy")[0])
    measure = {"segmenter": segmenter, "depth": depth, "midas": midas, "edges": edge_recipe, "features": features}[name]
    figures = measure.measure(root / name, work, "val", 4)
    assert figures and all(np.isfinite(value) for value in figures.values())


def test_miou_is_that_of_sklearn_over_the_classes_that_are_there():
    from sklearn.metrics import jaccard_score

    truth, found = np.random.RandomState(0).randint(1, 9, (2, 5, 8, 8))
    expected = jaccard_score(truth.ravel(), found.ravel(), average="macro")
    assert segmenter.miou(segmenter.confusion(truth, found)) == pytest.approx(expected)
    assert segmenter.miou(segmenter.confusion(truth, truth)) == 1


def test_si_ignores_a_common_scale_the_sky_and_what_is_far():
    truth = np.random.RandomState(0).uniform(2, 79, (3, 4, 4))
    found = truth * np.exp(np.random.RandomState(1).normal(0, 0.1, truth.shape))
    expected = 100 * np.mean([np.sqrt(np.var(np.log(f) - np.log(t))) for f, t in zip(found, truth, strict=True)])
    assert depth.si(found, truth) == pytest.approx(expected)
    assert depth.si(3 * truth, truth) == pytest.approx(0, abs=1e-6)
    wider = [np.concatenate([x, np.full((3, 1, 4), far)], 1) for x, far in ((found, 1.0), (truth, np.inf))]
    assert depth.si(*wider) == pytest.approx(expected)


def test_depth_learns_the_error_it_is_measured_by():
    truth = torch.rand(2, 8, 8) * 70 + 2
    found = truth * torch.exp(0.1 * torch.randn(2, 8, 8))
    d = (found / truth).log()
    d = d - d.mean((1, 2), keepdim=True)
    expected = 100 * d.square().mean((1, 2)).sqrt().mean().item()
    assert depth.si(found.numpy(), truth.numpy()) == pytest.approx(expected, rel=1e-3)
    assert 100 * depth.loss(found, truth).item() == pytest.approx(expected, rel=0.05)
    sky = torch.full((1, 8, 8), torch.inf)
    assert depth.loss(torch.full((1, 8, 8), 80.0), sky) < 0.002 < depth.loss(torch.full((1, 8, 8), 40.0), sky)


def test_midas_leaves_scale_and_shift_open():
    inverse = torch.rand(2, 8, 8) + 0.1
    assert midas.loss(5 * inverse + 2, 1 / inverse) < 1e-4
    assert midas.correlation((5 * inverse + 2).numpy(), inverse.numpy()) == pytest.approx(1)
    assert midas.correlation(np.ones((2, 8, 8)), inverse.numpy()) == 0


def test_edges_are_counted_with_a_tolerance_of_one_pixel():
    semantic = np.zeros((1, 8, 8), np.uint8)
    semantic[:, :, 4:] = 1
    truth = edge_recipe.outlines(semantic, semantic)
    assert truth[0, :, 3].all() and truth.sum() == 8
    for shift, right in ((0, 1), (1, 1), (2, 0)):
        precision, recall = edge_recipe.curve(np.roll(truth, shift, 2).astype(np.float32), truth, np.array([0.5]))
        assert (precision[0], recall[0]) == (right, right)


def test_hed_has_the_weights_of_controlnets_file(tmp_path):
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in edges.HED().state_dict().items()}
    assert len(shapes) == 1 + 2 * (2 + 2 + 3 + 3 + 3 + 5)
    assert shapes["norm"] == (1, 3, 1, 1) and shapes["block1.convs.0.weight"] == (64, 3, 3, 3)
    assert shapes["block5.convs.2.bias"] == (512,) and shapes["block4.projection.weight"] == (1, 512, 1, 1)
    with pytest.raises(WeightsMissing, match="the folder must hold config.json and model.safetensors"):
        edges.load(tmp_path)


def test_a_hed_folder_gives_back_what_was_saved(tmp_path):
    network = edges.HED((4, 6), (1, 2)).eval()
    image = torch.rand(2, 3, 16, 16) * 255
    network.save(tmp_path)
    assert torch.equal(edges.load(tmp_path)(image), network(image))
    assert [x.shape[-1] for x in network.sides(image)] == [16, 8]


def test_average_precision_is_that_of_sklearn():
    from sklearn.metrics import average_precision_score

    score, truth = np.random.RandomState(0).normal(size=40), np.random.RandomState(1).randint(2, size=40)
    assert features.average_precision(score, truth) == pytest.approx(average_precision_score(truth, score))


def test_only_some_pictures_are_softened():
    torch.manual_seed(0)
    image = torch.rand(64, 3, 8, 8) * 2 - 1
    same = (softened(image) == image).flatten(1).all(1)
    assert 16 < same.sum() < 48
