"""The backbones of the offline world are trained and load like any other, and the probe tells who knows the classes."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from lumen.core.interfaces import Backbone
from lumen.core.registry import backbones
from lumen.scenes.recipes import dinov2
from lumen.scenes.recipes import linear_probe as probe
from lumen.scenes.recipes import multi_crop as views
from lumen.scenes.recipes import self_distillation as distil
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.rendered_dataset import drawn


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One folder for all of them, so that the scenes are drawn once."""
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="module", params=("clip", "dino", "dinov2"))
def trained(request, root):
    name = request.param
    places = [f"out={root / name}", f"work={root / 'work'}"]
    assert main([name, "steps=2", "batch=2", "images=8", "held_out=4", *places]) == 0
    return name, root / name


def test_a_backbone_is_trained_and_loads_like_any_other(trained, root):
    name, folder = trained
    learnt = backbones.build(name, weights=str(folder))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert learnt.features(image).shape == (1, 128, 8, 8) and learnt.stride == 8
    assert torch.allclose(learnt.normalise(image), image, atol=1e-6)
    twin = probe.untrained(name, learnt, str(folder))
    assert twin.features(image).shape == (1, 128, 8, 8) and twin.identity["weights"] != learnt.identity["weights"]
    assert twin.identity["architecture"] == learnt.identity["architecture"]
    assert "| gain, test seeds |" in (folder / "README.md").read_text()
    assert (folder / "README.md").stat().st_size + sum(f.stat().st_size for f in folder.glob("*.safetensors")) < 5e6


@pytest.mark.parametrize("trained", ["clip"], indirect=True)
def test_an_open_clip_folder_brings_its_tokenizer(trained):
    _, folder = trained
    model, _, show = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}")
    tokens = words(["a red ball on grass", "Zürich, 東京 q"])
    assert tokens.shape == (2, 48) and (tokens == words.tokenizer.eos_token_id).any(1).all()
    assert model.encode_text(tokens).shape == (2, 128) and tuple(show.transforms[-1].mean) == (0.5,) * 3


class Oracle(Backbone):
    """Features that hold the labels, or nothing of them."""

    def __init__(self, scenes, knows):
        super().__init__()
        self.truth = probe.shares(scenes.semantic, (8, 8))
        self.image, self.knows = torch.tensor(scenes.image), knows

    def feature_maps(self, image):
        seen = ((image.permute(0, 2, 3, 1) + 1) * 127.5).round().byte()
        which = [(self.image == one).flatten(1).all(1).nonzero()[0, 0] for one in seen]
        noise = torch.rand(len(image), 3, 8, 8, generator=torch.Generator().manual_seed(len(image)))
        return [torch.cat([self.truth[torch.stack(which)], noise], 1) if self.knows else noise]


def test_the_probe_finds_what_is_there(root):
    work = root / "work"
    scenes = drawn(work, "train", 8, 64)
    known, unknown = (probe.probe(Oracle(scenes, knows), work, "train", 8) for knows in (True, False))
    ceiling = probe.ceiling(work, split="train", count=8)
    assert known > ceiling - 0.05 and unknown < 0.3 and 0.6 < ceiling < 1
    assert probe.ceiling(work, cells=64, split="train", count=8) == 1


def test_views_stay_pictures():
    image = torch.rand(5, 3, 64, 64) * 2 - 1
    crop, _ = views.cropped(image, 32, 0.1, 0.4)
    assert crop.shape == (5, 3, 32, 32) and crop.abs().max() <= 1
    assert views.coloured(image).abs().max() <= 1 and not torch.equal(views.coloured(image), image)
    grey = views.coloured(image, 0, 1)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)


def test_a_place_is_found_in_the_other_view():
    ramp = torch.linspace(-1, 1, 64)  # pixels that say where they are
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)]).expand(9, 3, 64, 64)
    (one, here), (other, there) = (views.cropped(image, 48, 0.4, 1) for _ in range(2))
    place, shared = views.elsewhere(here, there, 6)
    seen = F.grid_sample(other, place, align_corners=False)
    mine = F.avg_pool2d(one, 8)
    assert shared.any() and not shared.all()
    assert torch.allclose(seen.movedim(1, -1)[shared], mine.movedim(1, -1)[shared], atol=0.01)


def test_every_prototype_gets_its_share():
    shares = distil.balanced(torch.rand(64, 8), rounds=20)
    assert torch.allclose(shares.sum(1), torch.ones(64)) and (shares.sum(0) - 8).abs().max() < 0.5
    assert dinov2.spread(torch.eye(4)) < dinov2.spread(torch.ones(4, 4) + 0.01 * torch.eye(4))


def test_the_teacher_follows_and_learns_nothing_itself():
    pair = distil.Pair(steps=10, momentum=0.5)
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    with torch.no_grad():
        pair.student.whole.prototypes.add_(1)
    before = pair.teacher.whole.prototypes.clone()
    pair.follow()
    assert torch.allclose(pair.teacher.whole.prototypes, before + 0.5, atol=1e-6)
