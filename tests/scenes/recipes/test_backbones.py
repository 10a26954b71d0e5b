"""Recipes of the backbones: the saved backbones load like any other, and the probe measures the classes they know."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from lumen.core.interfaces import Backbone
from lumen.core.registry import backbones
from lumen.scenes.recipes import dinov2, linear_probe, multi_crop, self_distillation
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.rendered_dataset import render_dataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One directory for all of them, so that the scenes are rendered once."""
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="module", params=("clip", "dino", "dinov2"))
def trained(request, root):
    name = request.param
    directories = [f"out={root / name}", f"work={root / 'work'}"]
    assert main([name, "steps=2", "batch=2", "images=8", "held_out=4", *directories]) == 0
    return name, root / name


@pytest.mark.long
def test_backbone_of_a_recipe_loads_like_any_other(trained, root):
    name, directory = trained
    backbone = backbones.build(name, weights=str(directory))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert backbone.features(image).shape == (1, 128, 8, 8) and backbone.stride == 8
    assert torch.allclose(backbone.normalise(image), image, atol=1e-6)
    twin = linear_probe.reinitialize(name, backbone, str(directory))
    assert twin.features(image).shape == (1, 128, 8, 8) and twin.identity["weights"] != backbone.identity["weights"]
    assert twin.identity["architecture"] == backbone.identity["architecture"]
    assert "| gain, test seeds |" in (directory / "README.md").read_text()
    assert sum(file.stat().st_size for file in directory.glob("*.safetensors")) < 5e6


@pytest.mark.parametrize("trained", ["clip"], indirect=True)
def test_open_clip_directory_contains_its_tokenizer(trained):
    _, directory = trained
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    tokens = tokenizer(["a red ball on grass", "Zürich, 東京 q"])
    assert tokens.shape == (2, 48) and (tokens == tokenizer.tokenizer.eos_token_id).any(1).all()
    assert model.encode_text(tokens).shape == (2, 128) and tuple(transform.transforms[-1].mean) == (0.5,) * 3


class Oracle(Backbone):
    """Backbone whose features contain the labels, or only noise."""

    def __init__(self, scenes, informative):
        super().__init__()
        self.truth = linear_probe.class_shares(scenes.semantic, (8, 8))
        self.image, self.informative = torch.tensor(scenes.image), informative

    def feature_maps(self, image):
        pixels = ((image.permute(0, 2, 3, 1) + 1) * 127.5).round().byte()
        index = torch.stack([(self.image == x).flatten(1).all(1).nonzero()[0, 0] for x in pixels])
        noise = torch.rand(len(image), 3, 8, 8, generator=torch.Generator().manual_seed(len(image)))
        return [torch.cat([self.truth[index], noise], 1) if self.informative else noise]


def test_probe_measures_the_labels_in_features(root):
    work = root / "work"
    scenes = render_dataset(work, "train", 8, 64)
    with_labels, noise = (
        linear_probe.probe_miou(Oracle(scenes, informative), work, "train", 8) for informative in (True, False)
    )
    ceiling = linear_probe.grid_ceiling(work, split="train", count=8)
    assert with_labels > ceiling - 0.05 and noise < 0.3 and 0.6 < ceiling < 1
    assert linear_probe.grid_ceiling(work, cells=64, split="train", count=8) == 1


def test_crops_and_jittered_colours_stay_in_range():
    image = torch.rand(5, 3, 64, 64) * 2 - 1
    crop, _ = multi_crop.random_crop(image, 32, 0.1, 0.4)
    assert crop.shape == (5, 3, 32, 32) and crop.abs().max() <= 1
    jittered = multi_crop.jitter_colours(image)
    assert jittered.abs().max() <= 1 and not torch.equal(jittered, image)
    grey = multi_crop.jitter_colours(image, 0, 1)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)


def test_cells_of_a_crop_are_matched_in_another_crop():
    ramp = torch.linspace(-1, 1, 64)  # pixels that contain their position
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)]).expand(9, 3, 64, 64)
    (source, source_box), (target, target_box) = (multi_crop.random_crop(image, 48, 0.4, 1) for _ in range(2))
    positions, shared = multi_crop.match_cells(source_box, target_box, 6)
    matches = F.grid_sample(target, positions, align_corners=False)
    cells = F.avg_pool2d(source, 8)
    assert shared.any() and not shared.all()
    assert torch.allclose(matches.movedim(1, -1)[shared], cells.movedim(1, -1)[shared], atol=0.01)


def test_sinkhorn_knopp_balances_prototypes_and_koleo_spreads_vectors():
    shares = self_distillation.sinkhorn_knopp(torch.rand(64, 8), rounds=20)
    assert torch.allclose(shares.sum(1), torch.ones(64)) and (shares.sum(0) - 8).abs().max() < 0.5
    assert dinov2.koleo(torch.eye(4)) < dinov2.koleo(torch.ones(4, 4) + 0.01 * torch.eye(4))


def test_teacher_moves_towards_the_student_and_is_not_trained():
    networks = self_distillation.StudentTeacher(steps=100)
    assert not any(p.requires_grad for p in networks.teacher.parameters())
    with torch.no_grad():
        networks.student.image_head.prototypes.add_(1)
    before = networks.teacher.image_head.prototypes.clone()
    networks.update_teacher()  # 50 renewals in 100 steps: by a half at first
    assert torch.allclose(networks.teacher.image_head.prototypes, before + 0.5, atol=1e-6)
