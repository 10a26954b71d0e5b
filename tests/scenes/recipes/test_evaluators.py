"""Recipes of the evaluation networks: they load like any other, and their metrics agree with references."""

import numpy as np
import pytest
import timm
import torch
from transformers import AutoImageProcessor, AutoModelForDepthEstimation, AutoModelForSemanticSegmentation

from lumen.core.errors import WeightsMissing
from lumen.features.hed import HED, load_hed
from lumen.scenes.recipes import depth, features, hed, midas, segmenter
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.augmentations import blur_and_noise
from lumen.scenes.world import CLASSES


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """One directory for all of them, so that the scenes are rendered once."""
    root = tmp_path_factory.mktemp("evaluators")
    return root, root / "work"


def check_segmenter(directory, image):
    network = AutoModelForSemanticSegmentation.from_pretrained(directory, dtype=torch.float32)
    assert tuple(network.config.id2label.values()) == CLASSES
    pixels = AutoImageProcessor.from_pretrained(directory)(image, return_tensors="pt").pixel_values
    assert torch.allclose(pixels, torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, atol=1e-5)
    assert network(pixels).logits.shape == (1, len(CLASSES), 32, 32)


def check_depth_estimator(directory, image):
    network = AutoModelForDepthEstimation.from_pretrained(directory, dtype=torch.float32)
    pixels = AutoImageProcessor.from_pretrained(directory)(image, return_tensors="pt").pixel_values
    assert torch.allclose(pixels, torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1, atol=1e-5)
    assert (network(pixels).predicted_depth >= 0).all()


def check_edge_detector(directory, image):
    edges = load_hed(directory)(torch.tensor(image).permute(2, 0, 1)[None].float())
    assert edges.shape == (1, 64, 64) and edges.min() > 0 and edges.max() < 1


def check_feature_network(directory, image):
    network = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(network)
    assert settings["input_size"] == (3, 64, 64) and tuple(settings["mean"]) == (0.5, 0.5, 0.5)
    stages = timm.create_model(f"local-dir:{directory}", pretrained=True, features_only=True)
    assert [x.shape[-1] for x in stages(torch.zeros(1, 3, 64, 64))] == [32, 16, 8, 4, 2]
    assert network.num_features == 192 and network.num_classes == len(features.LABELS)


CHECKS = {
    "depth": check_depth_estimator,
    "segmenter": check_segmenter,
    "midas": check_depth_estimator,
    "hed": check_edge_detector,
    "features": check_feature_network,
}
RECIPES = {"segmenter": segmenter, "depth": depth, "midas": midas, "hed": hed, "features": features}


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.long
def test_evaluation_network_of_a_recipe_loads_like_any_other(name, directories, capsys):
    root, work = directories
    flags = ["steps=2", "batch=2", "images=8", "held_out=4", f"work={work}"]
    if name == "depth" and not (root / "segmenter").is_dir():
        assert main([name, *flags, f"out={root / name}"]) == 2
        assert "run the recipe segmenter first" in capsys.readouterr().err
        assert main(["segmenter", *flags, f"out={root / 'segmenter'}"]) == 0
    assert main([name, *flags, f"out={root / name}"]) == 0
    assert ", test seeds: " in capsys.readouterr().out
    assert ", test seeds |" in (root / name / "README.md").read_text()
    CHECKS[name](root / name, np.load(work / "test-4-64" / "image.npy")[0])
    metrics = RECIPES[name].evaluate(root / name, work, "val", 4)
    assert metrics and all(np.isfinite(value) for value in metrics.values())


def test_miou_equals_sklearn_over_present_classes():
    from sklearn.metrics import jaccard_score

    truth, predicted = np.random.RandomState(0).randint(1, 9, (2, 5, 8, 8))
    expected = jaccard_score(truth.ravel(), predicted.ravel(), average="macro")
    assert segmenter.mean_iou(segmenter.confusion_matrix(truth, predicted)) == pytest.approx(expected)
    assert segmenter.mean_iou(segmenter.confusion_matrix(truth, truth)) == 1


def test_si_error_ignores_common_scale_sky_and_far_pixels():
    truth = np.random.RandomState(0).uniform(2, 79, (3, 4, 4))
    predicted = truth * np.exp(np.random.RandomState(1).normal(0, 0.1, truth.shape))
    expected = 100 * np.mean([np.sqrt(np.var(np.log(p) - np.log(t))) for p, t in zip(predicted, truth, strict=True)])
    assert depth.si_error(predicted, truth) == pytest.approx(expected)
    assert depth.si_error(3 * truth, truth) == pytest.approx(0, abs=1e-6)
    wider = [np.concatenate([x, np.full((3, 1, 4), far)], 1) for x, far in ((predicted, 1.0), (truth, np.inf))]
    assert depth.si_error(*wider) == pytest.approx(expected)


def test_depth_loss_agrees_with_si_error():
    truth = torch.rand(2, 8, 8) * 70 + 2
    predicted = truth * torch.exp(0.1 * torch.randn(2, 8, 8))
    d = (predicted / truth).log()
    d = d - d.mean((1, 2), keepdim=True)
    expected = 100 * d.square().mean((1, 2)).sqrt().mean().item()
    assert depth.si_error(predicted.numpy(), truth.numpy()) == pytest.approx(expected, rel=1e-3)
    assert 100 * depth.depth_loss(predicted, truth).item() == pytest.approx(expected, rel=0.05)
    sky = torch.full((1, 8, 8), torch.inf)
    assert (
        depth.depth_loss(torch.full((1, 8, 8), 80.0), sky) < 0.002 < depth.depth_loss(torch.full((1, 8, 8), 40.0), sky)
    )


def test_midas_loss_ignores_scale_and_shift():
    inverse = torch.rand(2, 8, 8) + 0.1
    assert midas.midas_loss(5 * inverse + 2, 1 / inverse) < 1e-4
    assert midas.correlation((5 * inverse + 2).numpy(), inverse.numpy()) == pytest.approx(1)
    assert midas.correlation(np.ones((2, 8, 8)), inverse.numpy()) == 0


def test_edge_precision_has_a_tolerance_of_one_pixel():
    semantic = np.zeros((1, 8, 8), np.uint8)
    semantic[:, :, 4:] = 1
    truth = hed.label_boundaries(semantic, semantic)
    assert truth[0, :, 3].all() and truth.sum() == 8
    for shift, expected in ((0, 1), (1, 1), (2, 0)):
        precision, recall = hed.precision_recall(np.roll(truth, shift, 2).astype(np.float32), truth, np.array([0.5]))
        assert (precision[0], recall[0]) == (expected, expected)


def test_hed_has_the_weights_of_controlnets_file(tmp_path):
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in HED().state_dict().items()}
    assert len(shapes) == 1 + 2 * (2 + 2 + 3 + 3 + 3 + 5)
    assert shapes["norm"] == (1, 3, 1, 1) and shapes["block1.convs.0.weight"] == (64, 3, 3, 3)
    assert shapes["block5.convs.2.bias"] == (512,) and shapes["block4.projection.weight"] == (1, 512, 1, 1)
    with pytest.raises(WeightsMissing, match="the folder must hold config.json and model.safetensors"):
        load_hed(tmp_path)


def test_a_hed_folder_gives_back_what_was_saved(tmp_path):
    network = HED((4, 6), (1, 2)).eval()
    image = torch.rand(2, 3, 16, 16) * 255
    network.save(tmp_path)
    assert torch.equal(load_hed(tmp_path)(image), network(image))
    assert [x.shape[-1] for x in network.side_outputs(image)] == [16, 8]


def test_average_precision_equals_sklearn():
    from sklearn.metrics import average_precision_score

    score, truth = np.random.RandomState(0).normal(size=40), np.random.RandomState(1).randint(2, size=40)
    assert features.average_precision(score, truth) == pytest.approx(average_precision_score(truth, score))


def test_blur_and_noise_change_about_half_of_the_images():
    torch.manual_seed(0)
    image = torch.rand(64, 3, 8, 8) * 2 - 1
    unchanged = (blur_and_noise(image) == image).flatten(1).all(1)
    assert 16 < unchanged.sum() < 48
