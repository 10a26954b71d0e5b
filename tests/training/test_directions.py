"""Directions: draws by key, losses, baselines against numpy, edits, refusals, and the published size."""

import numpy as np
import pytest
import torch

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, BadSample, BadSize, WeightsMissing
from lumen.core.interfaces import IGNORE, Batch, Optimization
from lumen.core.registry import generators, tasks
from lumen.features.oasis import OasisConfig, OasisGenerator, Spade, save_oasis
from lumen.generators.controlnet import ControlNet
from lumen.runs.build import build_task
from lumen.runs.data import build_data
from lumen.training.latent_directions import (
    PcaStatistics,
    choose_classes,
    choose_pairs,
    expected_length,
    sefa_directions,
    shift_noise,
    triplet_and_area,
)

CLASSES = ("sky", "grass", "car")
CONFIG = OasisConfig(CLASSES, noise=4, widths=(8, 8, 6), hidden=4, patch=4, channels=4)


@pytest.fixture(scope="module")
def generator(pipeline):
    return generators.build("oasis", weights="none", base=pipeline, classes=CLASSES)


@pytest.fixture(scope="module")
def task(generator):
    return tasks.build("directions", directions=3, generator=generator, optimization=Optimization(steps=10), seed=3)


@pytest.fixture(scope="module")
def batch():
    mask = torch.randint(3, (4, 32, 32), generator=torch.Generator().manual_seed(0))
    mask[0, :, :], mask[0, :4, :4] = 1, 2
    return Batch(torch.zeros(4, 3, 32, 32), [""] * 4, ["a", "b", "c", "d"], mask)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return OasisGenerator(CONFIG).requires_grad_(False).eval()


def test_classes_are_drawn_evenly_among_large_ones():
    mask = torch.zeros(600, 16, 16, dtype=torch.long)
    mask[:, 0, 0] = 2  # less than 2 %
    mask[:, 8:] = 1
    chosen = choose_classes(mask, 3, [("seed", i) for i in range(600)])
    assert chosen.bincount(minlength=3).tolist() == pytest.approx([300, 300, 0], abs=50)
    assert chosen[:5].tolist() == choose_classes(mask[:5], 3, [("seed", i) for i in range(5)]).tolist()
    mask[0], mask[0, 0, 0] = IGNORE, 2
    assert choose_classes(mask[:1], 3, [("x",)]).tolist() == [2]


def test_pairs_are_two_different_directions_of_equal_chance():
    first, other = choose_pairs(3, [("seed", i) for i in range(900)])
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (first.numpy(), other.numpy()), 1)
    assert counts.diagonal().sum() == 0 and counts[~np.eye(3, dtype=bool)] == pytest.approx(150, abs=45)


def test_expected_length_is_the_mean_length_of_noise():
    assert expected_length(64) == pytest.approx(7.97, abs=0.005)
    assert expected_length(16) == pytest.approx(float(torch.randn(20000, 16).norm(dim=1).mean()), rel=0.01)


def test_losses_equal_their_definitions():
    random = np.random.RandomState(0)
    outputs = [[random.randn(2, 3, s, s) for s in (4, 8)] for _ in range(4)]
    shares = [random.rand(2, s, s) for s in (4, 8)]
    triplets, areas = [], []
    for plain, anchor, positive, negative, share in zip(*outputs, shares, strict=True):
        for i in range(2):
            gap = lambda a, b, w, i=i: (((a[i] - b[i]) ** 2).sum(0) * w).sum() / w.sum()  # noqa: E731
            triplets.append(gap(anchor, positive, share[i]) - gap(anchor, negative, share[i]))
            outside, inside = (gap(plain, anchor, w) for w in (1 - share[i], share[i]))
            areas.append(np.log(outside + 1e-3) - np.log(inside + 1e-3))
    tensors = [[torch.tensor(x) for x in row] for row in outputs]
    triplet, area = triplet_and_area(tensors, [torch.tensor(s) for s in shares])
    assert triplet.numpy() == pytest.approx(np.reshape(triplets, (2, 2)).mean(0), rel=1e-5)
    assert area.numpy() == pytest.approx(np.reshape(areas, (2, 2)).mean(0), rel=1e-5)


def test_loss_depends_on_keys_and_its_gradient_on_the_drawn_classes(task, batch):
    keys = [("k", image_id) for image_id in batch.id]
    task.vectors.grad = None
    triplet, area = task.losses(batch, keys)
    again = task.losses(batch, keys)
    assert torch.equal(triplet, again[0]) and not torch.equal(
        triplet, task.losses(batch, [("l", i) for i in "abcd"])[0]
    )
    (triplet + area).backward()
    chosen = choose_classes(batch.mask, 3, [(*key, "class") for key in keys])
    is_moved = task.vectors.grad.abs().sum((1, 2)) > 0
    assert set(is_moved.nonzero().flatten().tolist()) == set(chosen.tolist())
    # A direction has a fixed length, so the gradient is orthogonal to it.
    assert (task.vectors * task.vectors.grad).sum(-1).abs().max() < 1e-4
    with torch.no_grad():
        assert torch.allclose(task.scaled_vectors.norm(dim=-1), torch.full((3, 3), task.edit_length))


def test_sefa_directions_equal_eigenvectors_of_the_weights(network):
    layers = [network.first] + [m.shared for m in network.modules() if isinstance(m, Spade)]
    columns = np.concatenate([layer.weight.double().numpy()[:, :4].sum((2, 3)) for layer in layers])
    columns /= np.linalg.norm(columns, axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(columns.T @ columns)
    directions = sefa_directions(network, 3).double().numpy()
    for direction, axis in zip(directions, vectors.T[::-1], strict=False):
        assert abs(direction @ axis) == pytest.approx(1, abs=1e-5) and direction[np.abs(direction).argmax()] > 0


def test_pca_directions_equal_those_of_all_activations(network):
    batches = [
        Batch(None, [""] * 40, [f"{n}-{i}" for i in range(40)], torch.randint(3, (40, 32, 32))) for n in range(3)
    ]
    statistics = PcaStatistics(network, 0)
    directions = statistics.directions(sum(statistics.compute([b], 7) for b in batches), 2)
    assert torch.allclose(directions, statistics.directions(statistics.compute(batches, 7), 2), rtol=1e-3)
    from lumen.core.random import generator as keyed

    rows = []
    for b in batches:
        z = torch.stack([torch.randn(3, 4, generator=keyed(7, image_id, "pca")) for image_id in b.id])
        output = network.block_outputs(network.guide(b.mask, z))[0]
        share = network.shares(b.mask, output.shape[-2:])[:, 1]
        activation = (output * share[:, None]).sum((2, 3)) / share.sum((1, 2))[:, None]
        rows.append(torch.cat([activation, z[:, 1]], 1))
    x = torch.cat(rows).double().numpy()
    x -= x.mean(0)
    _, scales, axes = np.linalg.svd(x[:, :-4], full_matrices=False)
    coordinates = x[:, :-4] @ axes[:2].T / (scales[:2] / np.sqrt(len(x)))
    expected = np.linalg.lstsq(coordinates, x[:, -4:], rcond=None)[0]
    for direction, truth in zip(directions[1].double().numpy(), expected, strict=True):
        cosine = direction @ truth / np.linalg.norm(direction) / np.linalg.norm(truth)
        assert abs(cosine) == pytest.approx(1, abs=1e-3)


def test_outputs_are_edits_of_one_class_by_seed(task, batch):
    seeds = [[1, 2, 3, 4], [5, 6, 7, 8]]
    outputs = task.outputs(batch, seeds)
    assert outputs["images"].shape == (4, 2, 3, 32, 32) and outputs["edits"].shape == (4, 2, 4, 4, 32, 32)
    region = outputs["edits"][:, 0, 0, 3]
    chosen = choose_classes(batch.mask, 3, [("edit", image_id) for image_id in batch.id])
    assert torch.equal(region.bool(), batch.mask == chosen[:, None, None])
    matches = (outputs["images"][:, :, None] == outputs["edits"][:, :, 1:, :3]).flatten(3).all(3)
    assert matches.any(2).all()
    alone = Batch(batch.image[1:2], [""], ["b"], batch.mask[1:2])
    assert torch.allclose(task.outputs(alone, [[2]])["edits"][0, 0], outputs["edits"][1, 0], atol=1e-5)
    fresh = task.outputs(batch, seeds, "fresh")["edits"]
    assert torch.equal(fresh[:, :, 0], outputs["edits"][:, :, 0]) and not torch.equal(fresh, outputs["edits"])


def test_edit_series_has_the_unedited_image_in_the_middle(task, batch):
    series = task.edit_series(batch.mask[1:2], [0, 2], [-4.0, 0.0, 4.0], ("k",))
    assert series.shape == (3, 3, 3, 32, 32) and torch.allclose(series[0, 1], series[2, 1], atol=1e-5)
    assert not torch.allclose(series[0, 0], series[1, 0], atol=1e-3)
    z = task.generator.noise([("k",)])
    shifted = shift_noise(z, torch.tensor([0]), task.scaled_vectors[0, :1] / task.edit_length * 4)
    shifted = shift_noise(shifted, torch.tensor([2]), task.scaled_vectors[2, :1] / task.edit_length * 4)
    with torch.no_grad():
        assert torch.allclose(task.generator.render(batch.mask[1:2], shifted)[0], series[0, 2], atol=1e-5)


def test_directions_of_the_published_size_learn(pipeline):
    with torch.device("meta"):
        big = generators.build("oasis", weights="none", size="published", base=pipeline, classes=tuple("abcde"))
        task = tasks.build("directions", generator=big, optimization=Optimization(steps=10))
        (stage,) = task.stages(torch.empty(1, 3, 256, 256))
    assert task.vectors.shape == (5, 5, 64) and stage.loss.requires_grad and stage.loss.device.type == "meta"
    assert len(big.network.blocks) == 6 and sum(p.numel() for p in big.network.parameters()) > 50e6


def test_directions_refuse_what_cannot_be(pipeline, generator, task, batch, tmp_path):
    build = lambda **options: tasks.build("directions", **options)  # noqa: E731
    optimization = Optimization(steps=10)
    with pytest.raises(BadConfig, match="write steps=0"):
        build(find="sefa", generator=generator, optimization=optimization)
    with pytest.raises(BadConfig, match="leave steps out"):
        build(generator=generator, optimization=Optimization(steps=0))
    with pytest.raises(BadConfig, match="generator=oasis"):
        build(generator=ControlNet(base=pipeline, channels=1), optimization=optimization)
    with pytest.raises(BadConfig, match="more than the 16"):
        build(directions=17, generator=generator, optimization=optimization)
    with pytest.raises(BadSample, match="no label map"):
        task.outputs(Batch(batch.image, batch.caption, batch.id), [[1] * 4])
    with pytest.raises(BadSize, match="choose size=32"):
        generator.render(torch.zeros(1, 36, 36, dtype=torch.long), torch.zeros(1, 3, 16))
    save_oasis(tmp_path / "other", OasisGenerator(CONFIG).fold())
    with pytest.raises(BadConfig, match="classes"):
        generators.build("oasis", weights=str(tmp_path / "other"), base=pipeline, classes=("sky", "road"))
    with pytest.raises(WeightsMissing, match="single file|does not exist"):
        generators.build("oasis", weights=str(tmp_path / "nothing"), base=pipeline, classes=CLASSES)


def test_statistics_of_a_run_are_fitted_once(workdir):
    flags = ["task=directions", "task.find=pca", "steps=0", "generator.weights=none", "data.images=4", "batch=2"]
    config = load("scenes", [*flags, "workers=0"])
    data = build_data(config)
    task = build_task(config, data)
    before = task.vectors.clone()
    task.fit_statistics(data)
    assert bool(task.fitted) and not torch.equal(task.vectors, before) and not task.vectors.requires_grad
    fitted = task.vectors.clone()
    task.fit_statistics(data, lambda *_: pytest.fail("they are fitted already"))
    assert torch.equal(task.vectors, fitted)
