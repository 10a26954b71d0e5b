"""FreestyleNet: masks of its attention, and equality with a plain loop over the U-Net."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel

from lumen.core.random import keyed_normal, keyed_uniform
from lumen.diffusion.rectified_attention import EVERY_CLASS
from lumen.diffusion.stable_diffusion import encode_latents
from lumen.generators.freestyle import FreestyleNet

CLASSES = ("sky", "traffic light", "car")
CAPTIONS, SEEDS = ["a red ball", ""], [7, 8]
MAX_TOKENS = 77


@pytest.fixture
def labels() -> torch.Tensor:
    """Two label maps of 32 px: three classes with one pixel that has none; one class and unlabelled pixels."""
    first = torch.randint(3, (32, 32), generator=torch.Generator().manual_seed(0))
    first[:8], first[0, 0] = 0, 255
    second = torch.full((32, 32), 255)
    second[16:] = 2
    return torch.stack([first, second])


@pytest.fixture
def layout(labels) -> torch.Tensor:
    return (labels[:, None] == torch.arange(3)[:, None, None]).float()


def build(base, caption: str = "never", **options) -> FreestyleNet:
    return FreestyleNet(caption, base=base, channels=3, classes=CLASSES, **options)


def published_mask(tokenizer, labels, side: int) -> torch.Tensor:
    """Return the mask of one label map (side * side, 77), cell by cell and name by name."""
    mask, column = torch.ones(side, side, MAX_TOKENS, dtype=torch.bool), 1
    cells = labels[:: len(labels) // side, :: len(labels) // side]
    for class_id in sorted(set(labels.flatten().tolist()) - {255}):
        for _ in tokenizer.tokenize(CLASSES[class_id]):
            mask[..., column] = cells == class_id
            column += 1
    return mask.flatten(0, 1)


class PublishedAttention:
    """Attention written out, with the largest negative number at the logits that the mask excludes."""

    def __init__(self, masks=None):
        self.masks = masks

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if self.masks is not None and encoder_hidden_states is not None:
            side = int(hidden_states.shape[1] ** 0.5)
            logits = logits.masked_fill(~self.masks(side)[:, None], -torch.finfo(logits.dtype).max)
        return attn.to_out[0]((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


def published_unet(base, labels) -> tuple[UNet2DConditionModel, PublishedAttention, PublishedAttention]:
    """Return a copy of the U-Net, its masked attention and its attention without a mask."""
    masked = PublishedAttention(lambda side: torch.stack([published_mask(base.tokenizer, x, side) for x in labels]))
    return copy.deepcopy(base.unet), masked, PublishedAttention()


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.no_grad()
def test_sample_equals_that_of_the_published_loop(pipeline, labels, layout, guidance):
    unet, masked, unmasked = published_unet(pipeline, labels)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(4)
    prompts = ["sky traffic light car", "car"]
    conditional, unconditional = pipeline.encode_prompts(prompts), pipeline.encode_prompts(["", ""])
    x = torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in SEEDS])
    for t in scheduler.timesteps:
        unet.set_attn_processor(unmasked)
        without = unet(x, t, encoder_hidden_states=unconditional).sample
        unet.set_attn_processor(masked)
        predicted = without + guidance * (unet(x, t, encoder_hidden_states=conditional).sample - without)
        x = scheduler.step(predicted, t, x).prev_sample
    generator = build(pipeline)
    samples = generator.sample_latents(CAPTIONS, layout, SEEDS, (32, 32), "ddim", 4, guidance)
    assert torch.allclose(samples, x, atol=1e-4)
    open_masks = generator.sample_latents(CAPTIONS, torch.ones_like(layout), SEEDS, (32, 32), "ddim", 4, guidance)
    assert not torch.allclose(samples, open_masks, atol=1e-3)


def test_training_equals_that_of_the_published_loop(pipeline, batch, labels, layout):
    generator = build(pipeline)
    unet, masked, _ = published_unet(pipeline, labels)
    unet.requires_grad_(True).set_attn_processor(masked)
    image, text = batch.image[:2], pipeline.encode_prompts(["sky traffic light car", "car"])
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (generator, unet)]
    for step in range(2):
        keys = [(0, image_id, step) for image_id in batch.id[:2]]
        shape = (4, 8, 8)
        z = encode_latents(pipeline.vae, image, keyed_normal(shape, [(*k, "posterior") for k in keys])).detach()
        noise = keyed_normal(shape, [(*k, "noise") for k in keys])
        timesteps = (keyed_uniform([(*k, "timestep") for k in keys]) * 1000).long()
        noisy = pipeline.scheduler.add_noise(z, noise, timesteps)
        losses = (
            generator.loss(generator.encode(image), CAPTIONS, layout, keys).mean(),
            F.mse_loss(unet(noisy, timesteps, encoder_hidden_states=text).sample, noise),
        )
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-4)
    assert all(p.grad is not None for p in generator.parameters())
    assert all(p.grad is None for network in generator.networks.values() for p in network.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(generator.parameters(), pipeline.unet.parameters(), strict=True)]
    assert all(changed) and {name.partition(".")[0] for name in generator.state_dict()} == {"unet"}


@torch.no_grad()
def test_attention_gives_nothing_of_a_token_to_the_queries_that_its_mask_excludes(pipeline, layout):
    generator = build(pipeline)
    prompts = generator.prompts(CAPTIONS, layout)
    masks, text = generator.prepare_layout(layout, prompts, (8, 8)), pipeline.encode_prompts(prompts)
    column = 3 + 1  # the first letter of "traffic light", after the mark of the beginning and "sky"
    changed = text.clone()
    changed[:, column] = 100.0
    inputs = {}

    def record(name):
        return lambda module, args, kwargs: inputs.update({name: (args[0], kwargs)})

    attentions = {name: m for name, m in generator.unet.named_modules() if name.endswith("attn2")}
    handles = [m.register_forward_pre_hook(record(name), with_kwargs=True) for name, m in attentions.items()]
    generator.denoise(torch.randn(2, 4, 8, 8), torch.tensor(500), text, masks)
    for handle in handles:
        handle.remove()
    assert len(inputs) == len(attentions) == 16
    for name, (hidden, arguments) in inputs.items():
        before, after = (attentions[name](hidden, **arguments | {"encoder_hidden_states": x}) for x in (text, changed))
        mask = masks[hidden.shape[1]][..., column]
        assert torch.equal(before[~mask], after[~mask])
        assert not mask.any() or (before[mask] != after[mask]).any(-1).all()
    assert masks[64][0, :, column].any() and not masks[64][0, :, column].all()
    assert masks[64][1, :, column].all()  # the second image has no traffic light, and "car" is three letters


@pytest.mark.parametrize(("caption", "of_loss", "of_samples"), [("never", 0, 0), ("samples", 0, 1), ("always", 1, 1)])
def test_masks_follow_the_tokens_of_the_names(pipeline, labels, layout, caption, of_loss, of_samples):
    generator = build(pipeline, caption)
    for sampling, has_caption in ((False, of_loss), (True, of_samples)):
        prompts = generator.prompts(CAPTIONS, layout, sampling)
        assert prompts == [f"sky traffic light car{' a red ball' * has_caption}", "car"]
    masks = generator.prepare_layout(layout, prompts, (8, 8))
    assert sorted(masks) == [1, 4, 16, 64]
    for queries, mask in masks.items():
        expected = [published_mask(pipeline.tokenizer, x, int(queries**0.5)) for x in labels]
        assert torch.equal(mask, torch.stack(expected))


def test_masks_leave_an_empty_prompt_open_and_end_with_the_prompt(pipeline, layout):
    generator = build(pipeline)
    assert all(mask.all() for mask in generator.prepare_layout(layout, ["", ""], (8, 8)).values())
    generator.name_lengths = [40, 40, 1]
    classes = generator.token_classes(layout, ["sky traffic light car", "car"])
    assert classes.shape == (2, MAX_TOKENS) and classes[0, -1] == EVERY_CLASS  # the mark of the end stays
    assert classes[0, 1:-1].tolist() == [0] * 40 + [1] * 35


def test_dropped_prompts_have_no_mask(pipeline, batch, layout):
    dropped, keys = build(pipeline, prompt_dropout=1.0), [(0, image_id, 1) for image_id in batch.id[:2]]
    moments = dropped.encode(batch.image[:2])
    losses = [dropped.loss(moments, CAPTIONS, x, keys) for x in (layout, layout.flip(0))]
    assert torch.equal(*losses)


def test_checkpointing_changes_memory_alone(pipeline, batch, layout):
    gradients, keys = [], [(0, image_id, 1) for image_id in batch.id[:2]]
    for checkpointing in (False, True):
        generator = build(pipeline, checkpointing=checkpointing).train()
        generator.loss(generator.encode(batch.image[:2]), CAPTIONS, layout, keys).mean().backward()
        gradients.append([p.grad for p in generator.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
