"""FID and KID against scipy, torch-fidelity and clean-fid; coverage of intervals; safe loading of weights."""

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
from lumen.core.interfaces import Metric, Optimization, Task
from lumen.core.random import generator
from lumen.evaluation.feature_extractors import InceptionFeatures, PooledFeatures, key_suffix
from lumen.evaluation.metrics.fid import FrechetDistance, frechet_distance
from lumen.evaluation.metrics.kid import KernelDistance
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.build import build_metrics
from lumen.runs.data import build_data
from lumen.scenes.recipes.features import extract_features, load_network

PUBLISHED = "weights-inception-2015-12-05-6726825d.pth"
BOTH = pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])


def random_features(images, samples, channels, key=0, correlation=0.5, scale=1.3):
    """Features of images, and of samples that are correlated with them and have a larger variance."""
    noise = torch.randn(images, 1 + samples, channels, generator=generator("test", key), dtype=torch.float64)
    real, independent = noise[:, :1], noise[:, 1:]
    return torch.cat([real, scale * (correlation * real + (1 - correlation**2) ** 0.5 * independent)], 1)


def random_images(count, size):
    """Images as bytes and in [-1, 1]."""
    image = torch.randint(256, (count, 3, size, size), generator=generator("test", "bytes"), dtype=torch.uint8)
    return image, image / 127.5 - 1


@pytest.mark.parametrize("images", [12, 90])
def test_fid_equals_torch_fidelity_and_scipy(images):
    features = random_features(images, 2, 20)
    statistics = [fid_features_to_statistics(x) for x in (features[:, 0], features[:, 1:].flatten(0, 1))]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    distance = float(FrechetDistance.aggregate(features))
    assert distance == pytest.approx(expected, rel=1e-6)
    if images > 20:  # a singular product has no square root
        (m, a), (n, b) = (moments.values() for moments in statistics)
        assert distance == pytest.approx((m - n) @ (m - n) + np.trace(a + b - 2 * sqrtm(a @ b).real), rel=1e-9)


def test_fid_of_equal_features_is_zero_even_for_few_images():
    features = random_features(9, 1, 20)[:, 0]
    assert float(frechet_distance(features, features)) == pytest.approx(0, abs=1e-5)


def test_kid_equals_torch_fidelitys_u_statistic():
    real, generated = random_features(30, 1, 20).unbind(1)
    pairs = ((real, real), (real, generated), (generated, generated))
    expected = 1000 * mmd2(*(kernel_poly(x.numpy(), y.numpy()) for x, y in pairs), mmd_est="u-statistic")
    assert float(KernelDistance.aggregate(torch.stack([real, generated], 1))) == pytest.approx(expected, rel=1e-9)


def test_kid_of_several_samples_is_the_mean_over_pairs_of_different_images():
    features, total = random_features(5, 3, 4), 0.0
    k = lambda x, y: float((x @ y / 4 + 1) ** 3)  # noqa: E731
    for i in range(5):
        for j in {*range(5)} - {i}:
            (x, *a), (y, *b) = features[i], features[j]
            cross = np.mean([k(x, t) for t in b]) + np.mean([k(s, y) for s in a])
            total += k(x, y) + np.mean([k(s, t) for s in a for t in b]) - cross
    assert float(KernelDistance.aggregate(features)) == pytest.approx(1000 * total / 20, rel=1e-9)


def test_kid_is_unbiased_although_samples_resemble_their_own_image():
    """Its mean is 0 where samples are distributed like images; the plain statistic is lowered by the resemblance."""
    draws = [random_features(20, 2, 8, key, correlation=0.9, scale=1.0) for key in range(400)]
    values = torch.stack([KernelDistance.aggregate(features) for features in draws])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 20
    kernels = [
        [kernel_poly(x.numpy(), y.numpy()) for x, y in ((a, a), (a, b), (b, b))]
        for a, b, _ in (features.unbind(1) for features in draws)
    ]
    plain = 1000 * np.array([mmd2(*matrices) for matrices in kernels])
    assert plain.mean() < -10 * plain.std() / 20


@BOTH
def test_influence_bootstrap_approximates_the_plain_bootstrap(metric, monkeypatch):
    monkeypatch.setattr(metric, "num_resamples", 200)
    features = random_features(300, 2, 3, scale=2)
    plain = Metric.bootstrap_resamples.__func__(metric, features)
    resamples = metric.bootstrap_resamples(features)
    assert np.corrcoef(plain, resamples)[0, 1] > 0.93
    assert float(resamples.std()) == pytest.approx(float(plain.std()), rel=0.15)
    tolerance = 0.2 * float(resamples.std())
    assert float(resamples.median()) == pytest.approx(float(metric.aggregate(features)), abs=tolerance)


@BOTH
@pytest.mark.parametrize("images", [12, 40])
def test_interval_covers_the_expected_distance(metric, images):
    """With fewer images than the 16 channels, and with more."""
    draws = [random_features(images, 2, 16, key) for key in range(200)]
    expected = torch.stack([metric.aggregate(features) for features in draws]).mean()
    covered = [low <= expected <= high for low, high in map(metric.interval, draws)]
    assert 0.85 < np.mean(covered) <= 1


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_distance_of_another_network_has_its_own_key(name, tmp_path):
    metric = built([f"metrics=[{name}]", "measure.images=256"])[name]
    assert metric.key == f"{name}-scenes"
    image, signed = random_images(3, 64)
    expected, _ = extract_features(load_network(SCENES_WEIGHTS / "features"), image.permute(0, 2, 3, 1).numpy())
    assert np.allclose(metric.evaluator(signed), expected, atol=1e-5)
    assert key_suffix(str(tmp_path / "my net, v1")) == "-my_net__v1" and key_suffix("org/model") == "-model"


def test_kid_replaces_fid_of_too_few_images():
    overrides = ["measure.images=96", "measure.samples=2"]
    with pytest.warns(UserWarning, match="fid.* 193 .*192 .*kid"):
        assert built(["metrics=[fid]", *overrides])["kid"].key == "kid-scenes"
    assert set(built(["metrics=[fid]", "measure.images=97", "measure.samples=2"])) == {"fid"}


def built(overrides):
    config = load("scenes", overrides)
    return build_metrics(config, build_data(config), Task(Optimization()))


class UntrainedInception(FeatureExtractorInceptionV3):
    """torch-fidelity's network without weights to load."""

    def __init__(self):
        super().__init__("untrained", ["2048"], saved({}))

    def load_state_dict(self, weights):
        pass


def saved(weights):
    file = BytesIO()
    torch.save(weights, file)
    file.seek(0)
    return file


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Directory of torch's cache, empty, without a network to fill it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    directory = tmp_path / "hub" / "checkpoints"
    directory.mkdir(parents=True)
    return directory


def test_inception_equals_torch_fidelity_with_either_resizing(hub):
    network = UntrainedInception()
    torch.save(network.state_dict(), hub / PUBLISHED)
    image, signed = random_images(2, 40)
    original, clean = InceptionFeatures("original").eval(), InceptionFeatures("clean").eval()
    with torch.no_grad():
        assert torch.allclose(original(signed), network(image)[0], atol=1e-6)
        resizer = build_resizer("clean")
        for size in (40, 512):  # enlarged and reduced
            image, signed = random_images(1, size)
            expected = torch.tensor(resizer(image[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None]
            resized = clean.resize((signed + 1) * 127.5)
            assert torch.allclose(resized, expected, atol=2e-3)  # of 255
        features = clean(signed)
        # torch-fidelity does not resize images of Inception's size.
        assert torch.allclose(features, clean.layers((expected - 128) / 128).flatten(1), atol=1e-5)
    assert features.shape == (1, clean.channels) and features.std() > 0


def test_missing_inception_weights_are_reported_with_their_url(hub):
    with pytest.raises(WeightsMissing, match=f"{hub}.*no route to host.*{PUBLISHED}.* https://"):
        FrechetDistance()


def test_inception_weights_with_code_are_refused(hub, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (hub / PUBLISHED).write_bytes(pickle.dumps(Code()))
    with pytest.raises(WeightsMissing, match="inception"):
        FrechetDistance()
    torch.save({"weight": Code()}, hub / PUBLISHED)
    with pytest.raises(WeightsMissing, match="inception"):
        FrechetDistance()
    assert not (tmp_path / "executed").exists()


def test_pooled_features_accept_images_of_any_size():
    network = PooledFeatures("scenes").eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 96, 128)).shape == (1, network.channels) == (1, 192)
