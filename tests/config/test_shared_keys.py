"""Arguments of a component that follow other keys of the config."""

import pytest

from lumen.config.experiment import dump, load, reload
from lumen.config.identity import config_digest, run_name

COCO = ["data.root=/coco"]


@pytest.mark.parametrize(
    ("experiment", "flags", "expected"),
    [
        ("coco_stuff", [], ("published", "v1", None)),
        ("coco_stuff", ["diffusion.weights=/sd"], ("/sd", "v1", None)),
        ("coco_stuff", ["diffusion.weights=/sd", "backbone=sd"], ("/sd", "v1", None)),
        ("coco_stuff", ["diffusion.weights=org/model", "diffusion.revision=abc"], ("org/model", "v1", "abc")),
        ("coco_stuff", ["diffusion.revision=abc"], ("published", "v1", "abc")),
        ("coco_stuff", ["diffusion.weights=none", "diffusion.size=tiny"], ("none", "tiny", None)),
        ("coco_stuff", ["diffusion.weights=/sd", "backbone.layers=[5]"], ("/sd", "v1", None)),
        ("coco_stuff", ["diffusion.weights=/sd", "backbone.weights=published"], ("published", "v1", None)),
        ("coco_stuff", ["diffusion.weights=/sd", "backbone.size=v2"], ("published", "v2", None)),
        ("coco_stuff", ["diffusion.vae=/vae", "diffusion.hint=image"], ("published", "v1", None)),
        ("scenes", ["backbone=sd"], ("scenes", "v1", None)),
        ("scenes", ["backbone=sd", "diffusion.weights=none"], ("scenes", "v1", None)),
    ],
)
def test_shared_weights_follow_the_generator_unless_given(experiment, flags, expected):
    config = load(experiment, [*flags, *(COCO if experiment == "coco_stuff" else [])])
    assert config.backbone["name"] == "sd"
    assert tuple(config.backbone[key] for key in ("weights", "size", "revision")) == expected
    assert reload(dump(config)).backbone == config.backbone  # of the run's own config.yaml


@pytest.mark.parametrize("backbone", ["clip", "dino", "dinov2"])
def test_shared_weights_are_those_of_no_other_backbone(backbone):
    config = load("coco_stuff", [*COCO, "diffusion.weights=/sd", f"backbone={backbone}"])
    assert config.backbone["weights"] == "published"


def test_shared_weights_change_the_digest_and_not_the_name():
    followed, given = (
        dump(load("coco_stuff", [*COCO, "diffusion.weights=/sd", *flags])) for flags in ([], ["backbone.weights=/sd"])
    )
    assert run_name(followed) == "diffusion.weights=_sd-" + run_name(followed).rpartition("-")[2]
    assert config_digest(followed) == config_digest(given)
