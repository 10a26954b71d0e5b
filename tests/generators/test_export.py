"""Exported ControlNets in diffusers' own pipeline against LUMEN's sampler, and published ones to start from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from lumen.core.errors import BadConfig, Note, WeightsMissing
from lumen.core.random import stable_seed
from lumen.core.resize import resize
from lumen.core.visualize import to_uint8
from lumen.diffusion.hint_encoder import enlarge_hint_encoder, reduce_hint_encoder
from lumen.diffusion.latent_diffusion import LatentDiffusion
from lumen.diffusion.loading import load, load_controlnet
from lumen.diffusion.sampling import SAMPLERS
from lumen.generators.controlnet import ControlNet

SIZE, PROMPT = 32, "a red ball"
SEEDS = [stable_seed(0, "sample", number) for number in range(2)]


def trained(base, k: int, hint: str, **options) -> ControlNet:
    """Return a ControlNet with noise in its zero convolutions, whose layout has an effect."""
    generator = ControlNet(base=base, channels=k, hint=hint, **options)
    with torch.no_grad():
        for i, p in enumerate(generator.parameters()):
            if not p.any():
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(i))
    return generator


def random_layout(k: int) -> torch.Tensor:
    return torch.randn(1, k, 4, 4, generator=torch.Generator().manual_seed(1))


def at_image_size(layout, generator: ControlNet) -> torch.Tensor:
    """Return a layout at the size of the image, as layout.py returns it."""
    if generator.hint == "image":
        return resize(layout, (SIZE, SIZE))
    cells = SIZE // generator.downscale
    return F.interpolate(resize(layout, (cells, cells)), SIZE, mode="nearest")


def stock_pixels(generator: ControlNet, directory, layout, dtype=torch.float32) -> torch.Tensor:
    """Return what diffusers' pipeline makes of an exported ControlNet, with one generator per image."""
    base = generator.base
    parts = {name: getattr(base, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    pipeline = StableDiffusionControlNetPipeline(
        **parts,
        controlnet=ControlNetModel.from_pretrained(directory),
        scheduler=SAMPLERS["ddim"].from_config(base.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    noise = (torch.Generator().manual_seed(seed) for seed in SEEDS)
    options = {"image": layout, "num_inference_steps": 3, "guidance_scale": 5.0}
    try:
        return torch.stack(
            [torch.from_numpy(np.array(pipeline(PROMPT, generator=g, **options).images[0])) for g in noise]
        )
    finally:
        pipeline.to(torch.float32)  # its networks are those of the fixture


def own_pixels(generator: ControlNet, layout) -> torch.Tensor:
    samples = [generator.sample([PROMPT], layout, [seed], (SIZE, SIZE), "ddim", 3, 5.0) for seed in SEEDS]
    return torch.stack([to_uint8(sample[0]) for sample in samples])


def compare(generator: ControlNet, directory, dtype=torch.float32) -> torch.Tensor:
    """Return the differences of all pixels between the exported ControlNet and LUMEN's sampler, in 8-bit levels."""
    layout = random_layout(generator.controlnet.config.conditioning_channels)
    generator.export(directory)
    own = own_pixels(generator, layout)
    assert not torch.equal(own, own_pixels(generator, -layout))
    return (own.int() - stock_pixels(generator, directory, at_image_size(layout, generator), dtype).int()).abs()


@pytest.mark.parametrize(("k", "hint"), [(4, "latent"), (3, "image")])
def test_exported_controlnet_makes_the_same_pixels_in_diffusers_pipeline(pipeline, tmp_path, k, hint):
    difference = compare(trained(pipeline, k, hint), tmp_path)
    assert difference.max() <= 1 and (difference > 0).float().mean() <= 1e-3


@pytest.mark.long
@pytest.mark.parametrize("hint", ["latent", "image"])
@pytest.mark.parametrize("k", [1, 3, 4, 20])
def test_exported_controlnet_of_any_channels_makes_the_same_pixels(pipeline, tmp_path, k, hint):
    difference = compare(trained(pipeline, k, hint), tmp_path)
    assert difference.max() <= 1 and (difference > 0).float().mean() <= 1e-3


@pytest.mark.long
@pytest.mark.parametrize("hint", ["latent", "image"])
@torch.no_grad()
def test_exported_controlnet_in_half_precision_is_less_than_a_level_apart(tmp_path, hint):
    generator = trained(load("scenes", "tiny"), 4, hint)
    weights = {name: [p.clone() for p in network.parameters()] for name, network in generator.networks.items()}
    assert 0 < compare(generator, tmp_path, torch.float16).float().mean() < 1
    for name, network in generator.networks.items():  # their files hold halves, so nothing was lost
        assert all(torch.equal(p, q) for p, q in zip(network.parameters(), weights[name], strict=True))


@pytest.mark.parametrize("downscale", [2, 4, 8])
@torch.no_grad()
def test_enlarged_hint_encoder_is_equal_and_reduces_to_the_same_bits(downscale):
    torch.manual_seed(0)
    encoder, layout = ControlNetConditioningEmbedding(16, 5, (12,)), torch.randn(2, 5, 4, 6) * 3
    encoder.conv_out.weight.normal_()
    enlarged = enlarge_hint_encoder(encoder, downscale)
    expected = encoder(layout)
    actual = enlarged(F.interpolate(layout, scale_factor=downscale, mode="nearest"))
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())
    reduced = reduce_hint_encoder(enlarged, downscale).state_dict()
    assert all(torch.equal(reduced[name], value) for name, value in encoder.state_dict().items())
    enlarged.blocks[0].bias[0] += 1e-6  # trained since
    assert reduce_hint_encoder(enlarged, downscale) is None


def test_exported_controlnet_of_stable_diffusion_for_images_is_a_stock_one_key_by_key():
    with torch.device("meta"):
        base = load("none", "v1")
        own = ControlNet(base=base, channels=3, hint="image").controlnet
        stock = ControlNetModel.from_unet(base.unet)
    shapes = [{name: value.shape for name, value in network.state_dict().items()} for network in (own, stock)]
    assert shapes[0] == shapes[1]
    assert {key: value for key, value in own.config.items() if stock.config[key] != value} == {}


# ---- start from a published ControlNet


@pytest.mark.parametrize("hint", ["latent", "image"])
def test_controlnet_starts_from_an_export_with_the_same_bits(pipeline, tmp_path, hint):
    before = trained(pipeline, 3, hint)
    before.export(tmp_path / "controlnet")
    after = ControlNet(base=pipeline, channels=3, hint=hint, controlnet=load_controlnet(str(tmp_path)))
    states = before.state_dict(), after.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@torch.no_grad()
def test_controlnet_for_rgb_takes_one_channel_as_a_grey_image(pipeline):
    published, layout = trained(pipeline, 3, "image").controlnet, torch.rand(1, 1, SIZE, SIZE)
    expected = published.controlnet_cond_embedding(layout.expand(-1, 3, -1, -1))
    generator = ControlNet(base=pipeline, channels=1, hint="image", controlnet=published)
    assert torch.allclose(generator.controlnet.controlnet_cond_embedding(layout), expected, atol=1e-5)
    assert torch.equal(generator.controlnet.conv_in.weight, published.conv_in.weight)


def test_controlnet_with_another_hint_encoder_gets_a_new_one_and_says_so(pipeline):
    published = trained(pipeline, 3, "image").controlnet
    with pytest.warns(Note, match="3 channels .* 20 channels"):
        generator = ControlNet(base=pipeline, channels=20, hint="latent", controlnet=published)
    assert torch.equal(generator.controlnet.conv_in.weight, published.conv_in.weight)
    assert not generator.controlnet.controlnet_cond_embedding.conv_out.weight.any()


def test_controlnet_of_another_unet_is_refused(pipeline):
    published = ControlNet(base=load("scenes", "tiny"), channels=3, hint="image").controlnet
    with pytest.raises(BadConfig, match="another U-Net"):
        ControlNet(base=pipeline, channels=3, hint="image", controlnet=published)


def test_generator_without_a_controlnet_is_not_exported(pipeline, tmp_path):
    with pytest.raises(BadConfig, match="generator=controlnet"):
        LatentDiffusion(pipeline).export(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "controlnet=FOLDER"),
        ("{}", "no network of diffusers"),
        ('{"_class_name": "AutoencoderKL"}', "AutoencoderKL"),
    ],
)
def test_controlnet_of_a_folder_that_holds_something_else_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsMissing, match=message):
        load_controlnet(str(tmp_path if content else tmp_path / "nowhere"))
