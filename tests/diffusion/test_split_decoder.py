"""Split decoder: both parts together are the decoder."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny

from lumen.core.errors import BadConfig
from lumen.core.registry import generators
from lumen.diffusion.split_decoder import decode_from_middle, decode_to_middle


def test_split_decoder_equals_the_decoder(pipeline):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    features = decode_to_middle(pipeline.vae, z)
    assert features.shape == (2, pipeline.vae.config.block_out_channels[-1], 8, 8)
    torch.testing.assert_close(decode_from_middle(pipeline.vae, features), pipeline.decode(z), atol=1e-5, rtol=0)
    alone = decode_to_middle(pipeline.vae, z[:1])
    assert torch.equal(decode_from_middle(pipeline.vae, alone), pipeline.decode(z[:1]))


def test_autoencoder_without_a_middle_block_is_refused(pipeline):
    with pytest.raises(BadConfig, match="AutoencoderTiny has no middle block"):
        generators.build("unconditional", base=replace(pipeline, vae=AutoencoderTiny()))


def test_unconditional_generator_is_deterministic_by_seed_and_takes_photos(pipeline, batch):
    generator = generators.build("unconditional", sampler_steps=1, base=pipeline)
    z = generator.latents([5, 6], (32, 32))
    assert torch.equal(z, generator.latents([5, 6], (32, 32))) and not torch.equal(z[0], z[1])
    photo = generator.render(generator.features(generator.invert(batch.image)))
    torch.testing.assert_close(photo, generator.reconstruct(batch.image), atol=1e-5, rtol=0)
    assert generator.dense_features(z).shape == (2, generator.dense_channels, *z.shape[-2:])
