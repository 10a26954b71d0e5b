"""Text-to-image model of the offline world: a U-Net on the autoencoder's latents, and its text encoder."""

import hashlib
import math
from itertools import chain
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lumen.core.bootstrap import percentile_interval
from lumen.core.errors import WeightsMissing
from lumen.core.files import atomic_path
from lumen.core.interfaces import Batch
from lumen.diffusion.loading import load
from lumen.evaluation.metrics.kid import KernelDistance
from lumen.evaluation.vqa import MultipleChoiceVQA
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.generators.controlnet import ControlNet
from lumen.scenes.questions import compose_questions
from lumen.scenes.recipes import linear_probe
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.precision import declare_float32
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, encode_images, to_pixels

CHANNELS = (32, 64, 96, 128)
HEADS = (2, 2, 4, 4)  # four on the finest level would spend a third of the time on a CPU in its softmax
TEXT_WIDTH = 64
MAX_TOKENS = 48  # the longest caption has 43
EMA_DECAY = 0.9995
DECAY_SHARE = 0.2  # of the steps, at the end: before, a training can be prolonged without loss
CAPTION_DROPOUT = 0.1  # share of empty prompts, for classifier-free guidance
GUIDANCE = 3.0  # of the samples that are evaluated
SAMPLE_SHARE = 4  # samples by which distributions are compared, for each one about which questions are asked
SNR_GAMMA = 5  # of min-SNR weighting (Hang et al. 2023, arXiv:2303.09556)
TRAINING_NOTES = """\
Training notes: after 20,000 images there is a horizon and a sky; after 37,000 sky and ground follow the caption; after
89,000 there are coloured shapes on the ground, few of a clear kind; after 144,000 kinds and most colours follow the
caption. The loss was still falling at the end, and is no higher on held-out seeds, so train longer before you enlarge
the network. Attention over 16 x 16 cells took a third of the time with four heads, hence two. `torch.compile` did not
help on a CPU.
"""


class TextToImage(nn.Module):
    """U-Net and text encoder that are trained together, with their noise schedule."""

    def __init__(self, tokenizer: CLIPTokenizer, channels: tuple[int, ...] = CHANNELS):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // 4, block_out_channels=channels, cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=HEADS, norm_num_groups=16,
        )  # fmt: skip
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )  # fmt: skip
        # The schedule of Stable Diffusion 1.5 and 2.1.
        self.schedule = DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
        )

    def forward(
        self,
        z: Float[Tensor, "b 4 h w"],
        noise: Float[Tensor, "b 4 h w"],
        t: Int[Tensor, " b"],
        tokens: Int[Tensor, "b l"],
    ) -> Float[Tensor, " b"]:
        """Return the weighted denoising error of each latent."""
        noisy = self.schedule.add_noise(z, noise, t)
        predicted = self.unet(noisy, t, self.text(tokens).last_hidden_state, return_dict=False)[0]
        snr = compute_snr(self.schedule, t)
        return F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3)) * snr.clamp(max=SNR_GAMMA) / snr


def load_weights(model: TextToImage, directory: Path) -> None:
    """Load the networks of a saved pipeline."""
    pipeline = StableDiffusionPipeline.from_pretrained(directory, safety_checker=None, torch_dtype=torch.float32)
    model.unet.load_state_dict(pipeline.unet.state_dict())
    model.text.load_state_dict(pipeline.text_encoder.state_dict())


def load_or_build_tokenizer(directory: Path, captions: list[list[str]]) -> CLIPTokenizer:
    """Return the tokenizer of a directory, built from the captions and saved there if it does not exist.

    Two builds number single letters differently, and a resumed training needs the numbers that it began with.
    """
    if not directory.is_dir():
        build_tokenizer(captions).save_pretrained(directory)
    return CLIPTokenizer.from_pretrained(directory)


def build_tokenizer(captions: list[list[str]]) -> CLIPTokenizer:
    """Return a tokenizer of CLIP's type with the words of the captions; other words are split into bytes."""
    letters = sorted(ByteLevel.alphabet())
    alphabet = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    speller = CLIPTokenizer(vocab={word: i for i, word in enumerate(alphabet)}, merges=[], model_max_length=MAX_TOKENS)
    # These letters cover every byte that a word can end in, so that none of them is unknown later.
    single_letters = " ".join(map(chr, range(33, 0x180)))
    texts = [single_letters, *(caption for group in captions for caption in group)]
    return speller.train_new_from_iterator(texts, vocab_size=1024)


def tokenize(tokenizer: CLIPTokenizer, captions: list[list[str]]) -> Int[Tensor, "n captions l"]:
    """Return the token ids of every caption of every image."""
    flat = [caption for group in captions for caption in group]
    ids = tokenizer(flat, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
    return ids.view(len(captions), -1, MAX_TOKENS)


def encode_dataset(work: Path, vae: AutoencoderKL, split: str, count: int) -> tuple[Tensor, Tensor, list[list[str]]]:
    """Return mean and standard deviation of every image's scaled latents, and the captions.

    The latents are stored in `work`, by the hash of the autoencoder.
    """
    scenes = render_dataset(work, split, count, SIZE)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in vae.parameters())).hexdigest()[:8]
    file = work / f"latents-{split}-{count}-{digest}.pt"
    if not file.exists():
        print(f"encoding {count} scenes of {split}", flush=True)
        with atomic_path(file) as path:
            torch.save(encode_images(vae, scenes.image), path)
    mean, std = torch.load(file, weights_only=True)
    return mean.float() * vae.config.scaling_factor, std.float() * vae.config.scaling_factor, scenes.captions


def train(
    out: Path, work: Path, steps: int = 47_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 65_536, held_out: int = 512, rate: float = 1e-3, start: Path | None = None,
) -> dict:  # fmt: skip
    """Train, evaluate and save a pipeline to out, which must hold the autoencoder. Return the rows of the card.

    Args:
        start: Directory of a saved pipeline, or `weights_file` of a training, whose networks are trained on.
    """
    if not (out / "vae").is_dir():
        raise WeightsMissing(f"recipe unet: {out / 'vae'} does not exist; run the recipe vae with the same out= first.")
    vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    mean, std, captions = encode_dataset(work, vae, "train", images)
    words = out / "tokenizer" if start and (out / "tokenizer").is_dir() else work / f"unet-{seed}-words"
    tokenizer = load_or_build_tokenizer(words, captions)
    tokens, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [[""]])[0, 0]
    torch.manual_seed(seed)
    model = TextToImage(tokenizer).to(memory_format=torch.channels_last)
    if start and start.is_dir():
        load_weights(model, start)
        start = None
    training = ResumableTraining(
        work / f"unet-{seed}.pt", steps, batch, rate, minutes, seed, EMA_DECAY, warmup_steps=500,
        decay_share=DECAY_SHARE, start=start,
    )  # fmt: skip

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,))
        z = mean[index] + std[index] * torch.randn_like(mean[index])
        prompt = tokens[index, torch.randint(tokens.shape[1], (batch,))]
        prompt = torch.where(torch.rand(batch, 1) < CAPTION_DROPOUT, empty, prompt)
        inputs = (z, torch.randn_like(z), torch.randint(1000, (batch,)), prompt)
        return model(*(tensor.to(DEVICE) for tensor in inputs)).mean()

    metrics = training.run(model, batch_loss)
    for split in ("val", "test"):
        loss = held_out_loss(model, tokenizer, *encode_dataset(work, vae, split, held_out))
        metrics[f"loss, {split} seeds"] = round(loss, 4)
    save_pipeline(out, model, tokenizer, vae)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"unet {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [model.unet, model.text], metrics, TRAINING_NOTES)
    return metrics


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return the probe of the U-Net's features, the accuracy of answers about samples, and their distance to scenes."""
    probe = linear_probe.evaluate("sd", work, split, str(directory), count)
    scenes = render_dataset(work, split, SAMPLE_SHARE * count, SIZE)
    samples = sample_first_captions(directory, scenes)
    return probe | answer_accuracy(samples[:count], scenes.graphs[:count]) | kernel_distance(samples, scenes)


def sample_first_captions(directory: Path, scenes: RenderedScenes) -> Float[Tensor, "n 3 H W"]:
    """Return a sample of the first caption of every scene."""
    generator = ControlNet(base=load(str(directory), "tiny"), channels=1)
    samples = []
    for first in range(0, len(scenes.captions), 32):
        captions = [group[0] for group in scenes.captions[first : first + 32]]
        keys = list(range(first, first + len(captions)))
        samples.append(generator.sample(captions, None, keys, (SIZE, SIZE), "dpm", 15, GUIDANCE))
    return torch.cat(samples)


def answer_accuracy(samples: Float[Tensor, "n 3 H W"], graphs: list[dict]) -> dict[str, float]:
    """Return the share of right answers about samples: the mean over kinds of questions, each kind, and each object."""
    vqa = MultipleChoiceVQA(SCENES_WEIGHTS / "vqa")
    questions = [compose_questions(graph) for graph in graphs]
    parts = zip(samples.split(32), [questions[i : i + 32] for i in range(0, len(questions), 32)], strict=True)
    answers = [answer for part in parts for answer in vqa.answer(*part)]
    correct: dict[str, list[bool]] = {}
    for question, answer in zip(chain(*questions), chain(*answers), strict=True):
        correct.setdefault(question.kind, []).append(answer == question.answer)
        if question.kind == "presence":
            kind = question.text.removesuffix("?").split()[-1]
            correct.setdefault(f"presence of a {kind}", []).append(answer == question.answer)
    accuracy = {kind: sum(hits) / len(hits) for kind, hits in sorted(correct.items())}
    kinds = {question.kind for question in chain(*questions)}
    name = "VQA accuracy of samples"
    mean = sum(accuracy[kind] for kind in kinds) / len(kinds)
    return {name: mean} | {f"{name}, {kind}": value for kind, value in accuracy.items()}


def kernel_distance(samples: Float[Tensor, "n 3 H W"], scenes: RenderedScenes) -> dict[str, float]:
    """Return the KID of samples and the scenes of their captions in the features of `scenes`, and its interval."""
    metric = KernelDistance("scenes")
    for first in range(0, len(samples), 64):
        rows = slice(first, first + 64)
        image = to_pixels(scenes.image[rows])
        names = [str(i) for i in range(first, first + len(image))]
        metric.update(
            Batch(image=image, caption=[group[0] for group in scenes.captions[rows]], id=names), samples[rows, None]
        )
    scores = torch.cat(metric.rows)
    low, high = percentile_interval(metric.bootstrap_resamples(scores))
    name = metric.key
    return {name: metric.aggregate(scores).item(), f"{name}, low": low, f"{name}, high": high}


@torch.no_grad()
def held_out_loss(
    model: TextToImage, tokenizer: CLIPTokenizer, mean: Tensor, _: Tensor, captions: list[list[str]]
) -> float:
    """Return the training loss on other scenes: first captions, evenly spaced timesteps, fixed noise."""
    torch.manual_seed(0)
    t = torch.linspace(0, 999, len(mean)).long()
    tokens = tokenize(tokenizer, captions)[:, 0]
    batches = zip(*(x.split(64) for x in (mean, torch.randn_like(mean), t, tokens)), strict=True)
    return torch.cat([model(*batch) for batch in batches]).mean().item()


def save_pipeline(out: Path, model: TextToImage, tokenizer: CLIPTokenizer, vae: AutoencoderKL) -> None:
    """Write a diffusers pipeline in half precision."""
    StableDiffusionPipeline(
        vae.half(), model.text.half(), tokenizer, model.unet.half(), model.schedule, None, None,
        requires_safety_checker=False,
    ).save_pretrained(out)  # fmt: skip
    declare_float32(out / "text_encoder")
