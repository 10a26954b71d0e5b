"""The text-to-image model of the offline world: a U-Net over the autoencoder's latents, and its text encoder."""

import hashlib
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lumen.core.errors import WeightsMissing
from lumen.core.files import beside
from lumen.diffusion.stable_diffusion import load
from lumen.evaluation.vqa import Answerer
from lumen.features.pretrained import SCENES
from lumen.generators.controlnet import ControlledDiffusion
from lumen.scenes.questions import questions
from lumen.scenes.recipes import linear_probe as probe
from lumen.scenes.recipes.model_card import card, on_held_out
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, encoded

CHANNELS = (32, 64, 96, 128)
HEADS = (2, 2, 4, 4)  # four on the finest level would spend a third of the time on a CPU in its softmax
WIDTH = 64  # of the text
TOKENS = 48  # the longest caption takes 43
DROPPED = 0.1  # share of empty prompts, for classifier-free guidance
GUIDANCE = 3.0  # of the samples that are judged
PAINTED = 256  # of them
GAMMA = 5  # of min-SNR weighting (Hang et al. 2023, arXiv:2303.09556)
LEARNT = """\
What was learnt: at 20,000 samples there is a horizon and a sky; at 37,000 sky and ground follow the caption; at 89,000
things are coloured shapes on the ground, few of a clear kind; at 144,000 kinds and most colours follow the caption. The
loss was still falling at the end, and is no higher on held-out seeds: more samples first, then a larger network.
Attention over 16 x 16 cells was a third of the work with four heads, hence two. `torch.compile` gains nothing on a CPU.
"""


class Painter(nn.Module):
    """The two networks that learn together, and the noise schedule they learn by."""

    def __init__(self, words: CLIPTokenizer, channels: tuple[int, ...] = CHANNELS):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=SIZE // 4, block_out_channels=channels, cross_attention_dim=WIDTH, attention_head_dim=HEADS,
            norm_num_groups=16,
        )  # fmt: skip
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
            )
        )  # fmt: skip
        # Stable Diffusion's; the published 1.5 and 2.1 have the same
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
        """The weighted denoising error of each latent."""
        noisy = self.schedule.add_noise(z, noise, t)
        predicted = self.unet(noisy, t, self.text(tokens).last_hidden_state, return_dict=False)[0]
        snr = compute_snr(self.schedule, t)
        return F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3)) * snr.clamp(max=GAMMA) / snr


def vocabulary(folder: Path, captions: list[list[str]]) -> CLIPTokenizer:
    """The tokenizer kept in a folder, made of these captions if there is none.

    Two makings number single letters differently, and a training that goes on needs the numbers it began with.
    """
    if not folder.is_dir():
        tokenizer(captions).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenizer(captions: list[list[str]]) -> CLIPTokenizer:
    """CLIP's kind, whose words are those of the captions; any other text it spells, byte by byte."""
    letters = sorted(ByteLevel.alphabet())
    alphabet = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    spelling = CLIPTokenizer(vocab={word: i for i, word in enumerate(alphabet)}, merges=[], model_max_length=TOKENS)
    # these letters end in every byte that a word can end in, so that none of them is unknown later
    alone = " ".join(map(chr, range(33, 0x180)))
    return spelling.train_new_from_iterator([alone, *(c for each in captions for c in each)], vocab_size=1024)


def tokenized(words: CLIPTokenizer, captions: list[list[str]]) -> Int[Tensor, "n captions l"]:
    """Every caption of every image."""
    flat = [caption for each in captions for caption in each]
    ids = words(flat, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    return ids.view(len(captions), -1, TOKENS)


def latents(work: Path, vae: AutoencoderKL, split: str, count: int) -> tuple[Tensor, Tensor, list[list[str]]]:
    """Mean and deviation of every image's latents, scaled; encoded once for one autoencoder."""
    scenes = drawn(work, split, count, SIZE)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in vae.parameters())).hexdigest()[:8]
    file = work / f"latents-{split}-{count}-{digest}.pt"
    if not file.exists():
        print(f"encoding {count} scenes of {split}", flush=True)
        with beside(file) as draft:
            torch.save(encoded(vae, scenes.image), draft)
    mean, std = torch.load(file, weights_only=True)
    return mean.float() * vae.config.scaling_factor, std.float() * vae.config.scaling_factor, scenes.captions


def train(
    out: Path, work: Path, steps: int = 20_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 1e-3,
) -> dict:  # fmt: skip
    """Encodes, trains, measures and saves a whole pipeline to out; the autoencoder must be there already."""
    if not (out / "vae").is_dir():
        raise WeightsMissing(f"recipe unet: {out / 'vae'} is not there; run the recipe vae with the same out= first.")
    vae = AutoencoderKL.from_pretrained(out / "vae").eval()
    mean, std, captions = latents(work, vae, "train", images)
    words = vocabulary(work / f"unet-{seed}-words", captions)
    tokens, empty = tokenized(words, captions), tokenized(words, [[""]])[0, 0]
    torch.manual_seed(seed)
    painter = Painter(words).to(memory_format=torch.channels_last)
    course = Course(work / f"unet-{seed}.pt", steps, batch, rate, minutes, seed)

    def loss() -> Tensor:
        some = torch.randint(images, (batch,))
        z = mean[some] + std[some] * torch.randn_like(mean[some])
        said = tokens[some, torch.randint(tokens.shape[1], (batch,))]
        said = torch.where(torch.rand(batch, 1) < DROPPED, empty, said)
        parts = (z, torch.randn_like(z), torch.randint(1000, (batch,)), said)
        return painter(*(part.to(DEVICE) for part in parts)).mean()

    figures = course.train(painter, loss)
    for split in ("val", "test"):
        figures[f"loss, {split} seeds"] = round(error(painter, words, *latents(work, vae, split, held_out)), 4)
    save(out, painter, words, vae)
    figures |= on_held_out(lambda split: measure(out, work, split, held_out))
    recipe = f"unet {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    card(out, __doc__, recipe, [painter.unet, painter.text], figures, LEARNT)
    return figures


def measure(folder: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """What the features know of the classes, and how many questions about a caption its sample answers rightly."""
    return probe.measure("sd", work, split, str(folder), count) | obeyed(folder, work, split, count)


def obeyed(folder: Path, work: Path, split: str, count: int) -> dict[str, float]:
    """The share of right answers about samples of first captions, in all and by the kind of question."""
    scenes, painted = drawn(work, split, count, SIZE), min(count, PAINTED)
    diffusion = ControlledDiffusion(load(str(folder), "tiny"), channels=1)
    answerer = Answerer(SCENES / "vqa")
    right: dict[str, list[bool]] = {}
    for first in range(0, painted, 32):
        some = range(first, min(first + 32, painted))
        captions = [scenes.captions[i][0] for i in some]
        shown = diffusion.sample(captions, None, list(some), (SIZE, SIZE), "dpm", 15, GUIDANCE)
        asked = [questions(scenes.graphs[i]) for i in some]
        for about, answers in zip(asked, answerer.answer(shown, asked), strict=True):
            for question, said in zip(about, answers, strict=True):
                right.setdefault(question.kind, []).append(said == question.answer)
    means = {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}
    share = sum(means.values()) / len(means)
    return {"answers right of samples": share} | {f"of {kind}": value for kind, value in means.items()}


@torch.no_grad()
def error(painter: Painter, words: CLIPTokenizer, mean: Tensor, _: Tensor, captions: list[list[str]]) -> float:
    """The training loss on other scenes: their first captions, timesteps spread evenly, one fixed draw of noise."""
    torch.manual_seed(0)
    t = torch.linspace(0, 999, len(mean)).long()
    tokens = tokenized(words, captions)[:, 0]
    parts = zip(*(x.split(64) for x in (mean, torch.randn_like(mean), t, tokens)), strict=True)
    return torch.cat([painter(*part) for part in parts]).mean().item()


def save(out: Path, painter: Painter, words: CLIPTokenizer, vae: AutoencoderKL) -> None:
    """An ordinary diffusers folder in half precision."""
    StableDiffusionPipeline(
        vae.half(), painter.text.half(), words, painter.unet.half(), painter.schedule, None, None,
        requires_safety_checker=False,
    ).save_pretrained(out)  # fmt: skip
