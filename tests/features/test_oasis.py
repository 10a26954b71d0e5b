"""OASIS generator: published architecture, noise of each class, spectral norms that are folded, and files."""

import pytest
import torch
from torch.nn.functional import one_hot

from lumen.core.errors import WeightsMissing
from lumen.core.interfaces import IGNORE
from lumen.features.oasis import OasisConfig, OasisGenerator, class_shares, load_oasis, save_oasis
from lumen.scenes.recipes.oasis import Adversaries, mode_seeking, renew_statistics, segmentation_loss

TINY = OasisConfig(("sky", "grass", "car"), noise=4, widths=(8, 8, 6), hidden=4, patch=2, channels=4)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return OasisGenerator(TINY).eval()


def labels(count=2, size=16):
    return torch.randint(3, (count, size, size), generator=torch.Generator().manual_seed(0))


def test_oasis_of_published_widths_generates_images_from_label_maps():
    classes = tuple(map(str, range(35)))  # of Cityscapes
    with torch.device("meta"):
        network = OasisGenerator(OasisConfig(classes))
        image = network(torch.zeros(2, 256, 512, dtype=torch.long), torch.empty(2, 35, 64))
        outputs = network.block_outputs(torch.empty(1, 64 + 35, 256, 512))
    assert image.shape == (2, 3, 256, 512) and network.config.downscale == 32
    widths = [tuple(x.shape[1:]) for x in outputs]
    assert widths == [(c, 2**i * 8, 2**i * 16) for i, c in enumerate((1024, 1024, 512, 256, 128, 64))]
    # By hand: six blocks of 3x3 convolutions, SPADEs of 128 channels, and shortcuts where the width changes.
    spade = lambda c: 9 * 99 * 128 + 128 + 2 * (9 * 128 * c + c)  # noqa: E731
    count = 9 * 99 * 1024 + 1024 + 9 * 64 * 3 + 3
    for a, b in ((1024, 1024), (1024, 1024), (1024, 512), (512, 256), (256, 128), (128, 64)):
        count += spade(a) + spade(b) + 9 * a * b + b + 9 * b * b + b + (a != b) * (spade(a) + a * b)
    assert sum(p.numel() for p in network.parameters()) == count


def test_oasis_noise_of_a_class_changes_its_region_most(generator):
    mask = torch.zeros(1, 64, 64, dtype=torch.long)
    mask[:, :, 32:] = 1
    z = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    other = z + one_hot(torch.tensor([1]), 3)[..., None]
    gap = (generator(mask, z) - generator(mask, other)).abs().mean(1)[0]
    absent = z + one_hot(torch.tensor([2]), 3)[..., None]
    assert gap[:, 24:].mean() > 10 * gap[:, :8].mean() and gap[:, 20:].mean() > 0
    assert torch.equal(generator(mask, z), generator(mask, absent))


def test_oasis_noise_has_unit_variance_on_borders_and_none_without_a_class(generator):
    mask = labels()
    mask[0, :2, :2] = IGNORE
    weights = generator.guide(mask, torch.eye(3, 4).expand(2, 3, 4))[:, :3]  # noise i is the weight of class i
    norms = weights.norm(dim=1)
    assert norms[0, 0, 0] == 0 and torch.allclose(norms.flatten()[1:], torch.ones(127), atol=1e-5)
    shares = class_shares(mask, 3, (8, 8))
    assert torch.allclose(shares[1].sum(0), torch.ones(8, 8))


def test_oasis_is_the_same_from_its_file_and_folded(tmp_path, generator):
    generator.mean.fill_(0.5)
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    image = generator.generate(labels(), z)
    assert torch.allclose(generator.fold().generate(labels(), z), image, atol=1e-5)
    save_oasis(tmp_path / "a", generator)
    loaded = load_oasis(str(tmp_path / "a"))
    assert loaded.config == TINY and not any(p.requires_grad for p in loaded.parameters())
    assert torch.allclose(loaded.generate(labels(), z), image, atol=2e-2)
    save_oasis(tmp_path / "b", loaded)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    (tmp_path / "a/model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsMissing, match="recipe oasis"):
        load_oasis(str(tmp_path / "a"))


def test_oasis_losses_equal_their_definitions():
    shares = one_hot(labels(), 3).permute(0, 3, 1, 2).float()
    shares[:, 2] = 0  # an absent class, and cells without a class
    logits = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    area = [float(shares[:, c].sum()) for c in range(3)]
    probabilities, total = logits.log_softmax(1), 0.0
    for c in range(2):
        total -= float((probabilities[:, 1 + c] * shares[:, c]).sum()) * sum(area) / area[c] / 2
    assert float(segmentation_loss(logits, shares)) == pytest.approx(total / 512, rel=1e-5)
    x, z = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 4)
    ratio = float(mode_seeking(x, x + 0.1, z, z + 0.5))
    assert ratio == pytest.approx(0.2, rel=1e-4) and float(mode_seeking(x, x + 1, z, z + 0.5)) == pytest.approx(0.4)


def test_oasis_adversaries_learn_from_their_own_terms():
    torch.manual_seed(0)
    networks = Adversaries(TINY)
    inputs = torch.randn(4, 4, 8, 8), labels(4), torch.randn(2, 4, 3, 4), torch.tensor([True, False, True])
    loss = networks(*inputs)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in networks.parameters() if p.requires_grad)
    networks.zero_grad()
    networks.discriminator_loss(
        inputs[0], inputs[0] + 1, networks.generator.shares(labels(4), (8, 8)), torch.zeros(4, 1, 8, 8) > 0
    ).backward()
    assert all(p.grad is None for p in networks.generator.parameters())
    renew_statistics(networks.generator, [labels(4)] * 3)
    norm = networks.generator.blocks[0].spades[0].norm
    assert int(norm.num_batches_tracked) == 3 and not networks.generator.training
