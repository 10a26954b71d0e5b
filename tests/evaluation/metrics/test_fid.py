"""FID and KID against scipy, torch-fidelity and clean-fid; intervals that hold the figure; weights read safely."""

import os
import pickle
from io import BytesIO
from urllib.error import URLError

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from scipy.linalg import sqrtm
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_poly, mmd2

from lumen.config.experiment import load
from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import Metric
from lumen.core.random import generator
from lumen.evaluation.feature_extractors import Inception, Pooled, suffix
from lumen.evaluation.metrics.fid import FrechetDistance, frechet
from lumen.evaluation.metrics.kid import KernelDistance
from lumen.features.pretrained import SCENES
from lumen.runs.build import build_data, build_metrics
from lumen.scenes.recipes.features import network_of, seen

PUBLISHED = "weights-inception-2015-12-05-6726825d.pth"
BOTH = pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])


def rows(images, samples, width, key=0, bond=0.5, wider=1.3):
    """Features of images and of samples that resemble them, and are wider than they."""
    noise = torch.randn(images, 1 + samples, width, generator=generator("test", key), dtype=torch.float64)
    real, own = noise[:, :1], noise[:, 1:]
    return torch.cat([real, wider * (bond * real + (1 - bond**2) ** 0.5 * own)], 1)


def drawn_bytes(count, size):
    """Images as bytes and in [-1, 1]."""
    image = torch.randint(256, (count, 3, size, size), generator=generator("test", "bytes"), dtype=torch.uint8)
    return image, image / 127.5 - 1


@pytest.mark.parametrize("images", [12, 90])
def test_fid_is_that_of_torch_fidelity_and_of_scipy(images):
    some = rows(images, 2, 20)
    statistics = [fid_features_to_statistics(x) for x in (some[:, 0], some[:, 1:].flatten(0, 1))]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    figure = float(FrechetDistance.aggregate(some))
    assert figure == pytest.approx(theirs, rel=1e-6)
    if images > 20:  # of a singular product there is no root
        (m, a), (n, b) = (each.values() for each in statistics)
        assert figure == pytest.approx((m - n) @ (m - n) + np.trace(a + b - 2 * sqrtm(a @ b).real), rel=1e-9)


def test_the_distance_of_equals_is_zero_with_few_images_too():
    some = rows(9, 1, 20)[:, 0]
    assert float(frechet(some, some)) == pytest.approx(0, abs=1e-5)


def test_kid_is_torch_fidelitys_statistic_of_pairs():
    real, made = rows(30, 1, 20).unbind(1)
    kernels = [kernel_poly(x.numpy(), y.numpy()) for x, y in ((real, real), (real, made), (made, made))]
    expected = 1000 * mmd2(*kernels, mmd_est="u-statistic")
    assert float(KernelDistance.aggregate(torch.stack([real, made], 1))) == pytest.approx(expected, rel=1e-9)


def test_kid_of_several_samples_is_the_mean_over_those_of_every_pair_of_images():
    some, total = rows(5, 3, 4), 0.0
    k = lambda x, y: float((x @ y / 4 + 1) ** 3)  # noqa: E731
    for i in range(5):
        for j in {*range(5)} - {i}:
            (x, *a), (y, *b) = some[i], some[j]
            cross = np.mean([k(x, t) for t in b]) + np.mean([k(s, y) for s in a])
            total += k(x, y) + np.mean([k(s, t) for s in a for t in b]) - cross
    assert float(KernelDistance.aggregate(some)) == pytest.approx(1000 * total / 20, rel=1e-9)


def test_kid_of_samples_of_the_same_images_is_unbiased():
    """As far as samples are distributed like images it is 0 in the mean, however much they owe to their own image."""
    several = [rows(20, 2, 8, key, bond=0.9, wider=1.0) for key in range(400)]
    ours = torch.stack([KernelDistance.aggregate(some) for some in several])
    assert abs(float(ours.mean())) < 3 * float(ours.std()) / 20
    kernels = [
        [kernel_poly(x.numpy(), y.numpy()) for x, y in ((a, a), (a, b), (b, b))]
        for a, b, _ in (some.unbind(1) for some in several)
    ]
    theirs = 1000 * np.array([mmd2(*some) for some in kernels])
    assert theirs.mean() < -10 * theirs.std() / 20  # pairs of an image with its own sample


@BOTH
def test_a_draw_is_to_first_order_the_figure_of_the_images_drawn(metric, monkeypatch):
    monkeypatch.setattr(metric, "draws", 200)
    some = rows(300, 2, 3, wider=2)
    plain, ours = Metric.bootstrap_resamples.__func__(metric, some), metric.bootstrap_resamples(some)
    assert np.corrcoef(plain, ours)[0, 1] > 0.93
    assert float(ours.std()) == pytest.approx(float(plain.std()), rel=0.15)
    assert float(ours.median()) == pytest.approx(float(metric.aggregate(some)), abs=0.2 * float(ours.std()))


@BOTH
@pytest.mark.parametrize("images", [12, 40])
def test_intervals_hold_the_expected_figure_nearly_always(metric, images):
    """With fewer images than the 16 features, and with more."""
    several = [rows(images, 2, 16, key) for key in range(200)]
    expected = torch.stack([metric.aggregate(some) for some in several]).mean()
    held = [low <= expected <= high for low, high in map(metric.interval, several)]
    assert 0.85 < np.mean(held) <= 1


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_another_network_is_named_and_gives_its_own_vectors(name, tmp_path):
    metric = _judges([f"metrics=[{name}]", "measure.images=256"])[name]
    assert metric.key == f"{name}-scenes"
    image, signed = drawn_bytes(3, 64)
    expected, _ = seen(network_of(SCENES / "features"), image.permute(0, 2, 3, 1).numpy())
    assert np.allclose(metric.evaluator(signed), expected, atol=1e-5)
    assert suffix(str(tmp_path / "my net, v1")) == "-my_net__v1" and suffix("org/model") == "-model"


def test_of_too_few_images_kid_takes_the_place_of_fid():
    flags = ["measure.images=96", "measure.samples=2"]
    with pytest.warns(UserWarning, match="fid needs 193 samples or more, and there are 192 .* kid is measured"):
        assert _judges(["metrics=[fid]", *flags])["kid"].key == "kid-scenes"
    assert set(_judges(["metrics=[fid]", "measure.images=97", "measure.samples=2"])) == {"fid"}


def _judges(flags):
    config = load("scenes", flags)
    return build_metrics(config, build_data(config))


class Untrained(FeatureExtractorInceptionV3):
    """The network of torch-fidelity without weights to load."""

    def __init__(self):
        super().__init__("untrained", ["2048"], _saved({}))

    def load_state_dict(self, weights):
        pass


def _saved(weights):
    file = BytesIO()
    torch.save(weights, file)
    file.seek(0)
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torch's cache, empty, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    return place


def test_inception_is_torch_fidelitys_with_either_resizing(cache):
    network = Untrained()
    torch.save(network.state_dict(), cache / PUBLISHED)
    image, signed = drawn_bytes(2, 40)
    original, clean = Inception("original").eval(), Inception("clean").eval()
    with torch.no_grad():
        assert torch.allclose(original(signed), network(image)[0], atol=1e-6)
        resizer = build_resizer("clean")
        for size in (40, 512):  # enlarged and reduced
            image, signed = drawn_bytes(1, size)
            expected = torch.tensor(resizer(image[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None]
            resized = clean.resized((signed + 1) * 127.5)
            assert torch.allclose(resized, expected, atol=2e-3)  # of 255
        features = clean(signed)
        # torch-fidelity does not resize what has its size
        assert torch.allclose(features, clean.layers((expected - 128) / 128).flatten(1), atol=1e-5)
    assert features.shape == (1, clean.width) and features.std() > 0


def test_weights_that_are_nowhere_are_answered_with_where_they_come_from(cache):
    with pytest.raises(WeightsMissing, match=f"{cache}.*no route to host.*must hold {PUBLISHED}, which https://"):
        FrechetDistance()


def test_weights_that_hold_code_are_refused(cache, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (cache / PUBLISHED).write_bytes(pickle.dumps(Code()))
    with pytest.raises(WeightsMissing, match="cannot be read"):
        FrechetDistance()
    torch.save({"weight": Code()}, cache / PUBLISHED)
    with pytest.raises(WeightsMissing, match="cannot be read"):
        FrechetDistance()
    assert not (tmp_path / "ran").exists()


def test_features_are_pooled_at_the_size_of_the_networks_card():
    network = Pooled("scenes").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 96, 128)).shape == (1, network.width) == (1, 192)
