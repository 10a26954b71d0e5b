"""Visual question answering in the offline world: a small BLIP at 64 px that chooses among answers."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

from lumen.evaluation.vqa import MultipleChoiceVQA
from lumen.scenes.objects import COLOURS, KINDS
from lumen.scenes.questions import Question, compose_questions
from lumen.scenes.recipes.model_card import evaluate_held_out, write_card
from lumen.scenes.recipes.precision import save_half
from lumen.scenes.recipes.rendered_dataset import RenderedScenes, render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, to_pixels
from lumen.scenes.world import GROUNDS

PATCH_PX = 8
WIDTH = 128
MAX_TOKENS = 24  # the longest question has 8
QUESTION_VARIANTS = 4  # samples of the absent objects of each scene
QUESTIONS_PER_IMAGE = 6  # in one step: encoding an image takes longer than answering
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
NUM_BACKGROUNDS = 1 + len(GROUNDS)  # sky and grounds
NUM_CONTENTS = NUM_BACKGROUNDS + len(KINDS) * len(COLOURS)  # backgrounds, and objects by kind and colour
TRAINING_NOTES = """\
Training notes: colours and skies are learnt first, the presence of a kind in a colour last. In a trial of 400 steps
77 % of the former were right in training, and 62 % of the latter, half of which are a coin's. At 72,000 images of this
training 256 test scenes gave 98.7 %; the rest of it gave less than one percent more. The head that predicts the content
of each patch was there from the start, so nothing is known of a training without it. To encode the questions about an
image in one row saved a quarter of the time. The minutes are those of about half a core, which was shared.

Softness costs no accuracy: blurred over 3 px, at half resolution and back, or enlarged to 128 px, all kinds of
questions of the test seeds stay within 0.2 points. Colours do cost: this repository's autoencoder makes purple bluish
and mixes red, orange and yellow. After it 89 % of the colours and 94 % of the presences are right, 95.6 % over the four
kinds. That, not 99.5 %, is the most to expect of images generated in its latents. "blind" is the best guess from the
questions alone.
"""


class PatchSupervisedBlip(nn.Module):
    """BLIP, and a training-only head that predicts the content of each patch.

    A yes or no contains little information about where to look; the head supervises every patch.
    """

    def __init__(self, tokenizer: BertTokenizer):
        super().__init__()
        decoder = tokenizer.convert_tokens_to_ids("[DEC]")
        text = {
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": decoder, "eos_token_id": tokenizer.sep_token_id, "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }  # fmt: skip
        vision = {
            "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4,
            "image_size": SIZE, "patch_size": PATCH_PX, "initializer_range": 0.02,
        }  # fmt: skip
        self.blip = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
        self.head = nn.Linear(WIDTH, NUM_CONTENTS)

    def forward(
        self,
        image: Float[Tensor, "b 3 H W"],
        questions: Int[Tensor, "b q l"],
        answers: Int[Tensor, "b q a"],
        shares: Float[Tensor, "b n contents"],
    ) -> Float[Tensor, ""]:
        """Return the mean negative log-likelihood of an answer with its end, plus the head's cross-entropy."""
        tokens = self.blip.vision_model(image).last_hidden_state
        loss = F.cross_entropy(self.head(tokens[:, 1:]).flatten(0, 1), shares.flatten(0, 1))
        encoded, lengths = self.encode_questions(questions, tokens)
        answer = answers.flatten(0, 1)
        # One length at a time: transformers 5 gives cross-attention no mask, so padding would be attended to.
        for length in lengths.unique():
            same = lengths == length
            output = self.blip.text_decoder(
                input_ids=answer[same], labels=answer[same], encoder_hidden_states=encoded[same, :length]
            )
            loss = loss + output.loss * (answer.shape[1] - 1) * same.float().mean()
        return loss

    def encode_questions(
        self, questions: Int[Tensor, "b q l"], tokens: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "bq l d"], Int[Tensor, " bq"]]:
        """Return the encoder's output for every question, and the number of its tokens.

        The questions about an image lie in one row and do not attend to one another. So the image tokens are projected
        once for all of them, which saves a quarter of the time.
        """
        b, q, length = questions.shape
        valid = (questions != self.blip.decoder_pad_token_id).flatten(1)
        same = torch.eye(q, device=questions.device).bool().repeat_interleave(length, 0).repeat_interleave(length, 1)
        mask = torch.zeros(b, 1, q * length, q * length, device=questions.device)
        mask.masked_fill_(~(same & valid[:, None, None]), torch.finfo(mask.dtype).min)
        positions = torch.arange(length, device=questions.device).repeat(q)[None]
        encoded = self.blip.text_encoder(
            input_ids=questions.flatten(1), position_ids=positions, attention_mask=mask, encoder_hidden_states=tokens
        ).last_hidden_state
        return encoded.view(b * q, length, -1), valid.view(b * q, length).sum(1)


class QuestionPool:
    """All questions about the images of a split as token ids, sampled from at every step."""

    def __init__(self, tokenizer: BertTokenizer, graphs: list[dict]):
        variants = range(QUESTION_VARIANTS)
        questions = [[q for variant in variants for q in compose_questions(graph, variant)] for graph in graphs]
        flat = [q for group in questions for q in group]
        texts, answers = sorted({q.text for q in flat}), sorted({q.answer for q in flat})
        self.text = tokenizer(texts, padding=True, return_tensors="pt").input_ids
        self.answer = tokenizer(answers, return_tensors="pt").input_ids
        self.answer[:, 0] = tokenizer.convert_tokens_to_ids("[DEC]")
        text, answer = ({word: i for i, word in enumerate(words)} for words in (texts, answers))
        self.pairs = torch.tensor([(text[q.text], answer[q.answer]) for q in flat])
        self.count = torch.tensor([len(group) for group in questions])
        self.first = self.count.cumsum(0) - self.count

    def sample(self, images: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b q l"], Int[Tensor, "b q a"]]:
        """Return random questions about each of some images, and their answers."""
        count, first = self.count[images, None], self.first[images, None]
        index = (torch.rand(len(images), QUESTIONS_PER_IMAGE) * count).long() + first
        text, answer = self.pairs[index].unbind(-1)
        return self.text[text], self.answer[answer]


def build_tokenizer() -> BertTokenizer:
    """Return a tokenizer of BERT's type with the words of the questions and answers."""
    graph = {"seed": 0, "ground": GROUNDS[0], "sky": "clear", "objects": [{"kind": "car", "colour": "red"}]}
    text = " ".join(" ".join((q.text, *q.choices)) for q in compose_questions(graph))
    words = sorted({*re.findall(r"\w+|\?", text), *KINDS, *COLOURS, "a", "an"})
    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}
    return BertTokenizer(vocab=vocabulary, model_max_length=MAX_TOKENS, additional_special_tokens=["[DEC]"])


def content_map(scenes: RenderedScenes) -> UInt8[np.ndarray, "n H W"]:
    """Return the content of each pixel: sky, a ground, or an object by kind and colour."""
    contents = np.array(scenes.semantic)
    for plane, instance, graph in zip(contents, scenes.instance, scenes.graphs, strict=True):
        for obj in graph["objects"]:
            kind, colour = KINDS.index(obj["kind"]), list(COLOURS).index(obj["colour"])
            plane[instance == obj["id"]] = NUM_BACKGROUNDS + kind * len(COLOURS) + colour
    return contents


def content_shares(contents: UInt8[Tensor, "b H W"]) -> Float[Tensor, "b n contents"]:
    """Return the share of each content in each patch."""
    side = SIZE // PATCH_PX
    patches = contents.view(-1, side, PATCH_PX, side, PATCH_PX).transpose(2, 3)
    patches = patches.reshape(len(contents), side**2, PATCH_PX**2).long()
    counts = torch.zeros(*patches.shape[:2], NUM_CONTENTS)
    return counts.scatter_add_(2, patches, torch.ones(patches.shape)) / PATCH_PX**2


def soften(image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b 3 H W"]:
    """Return images with random amounts of blur and noise: generated images are softer than rendered ones."""
    blurred = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    image = torch.lerp(image, blurred, torch.rand(len(image), 1, 1, 1))
    return image + 0.05 * torch.rand(len(image), 1, 1, 1) * torch.randn_like(image)


def train(
    out: Path, work: Path, steps: int = 4_000, batch: int = 32, minutes: float = math.inf, seed: int = 0,
    images: int = 16_384, held_out: int = 512, rate: float = 1e-3,
) -> dict:  # fmt: skip
    """Train the network, save it to out and evaluate what was saved. Return the rows of the model card."""
    scenes, tokenizer = render_dataset(work, "train", images, SIZE), build_tokenizer()
    pool, contents = QuestionPool(tokenizer, scenes.graphs), content_map(scenes)
    torch.manual_seed(seed)
    network = PatchSupervisedBlip(tokenizer)
    training = ResumableTraining(work / f"vqa-{seed}.pt", steps, batch, rate, minutes, seed)

    def batch_loss() -> Tensor:
        index = torch.randint(images, (batch,))
        image, plane = to_pixels(scenes.image[index.numpy()]), torch.tensor(contents[index.numpy()])
        # Mirror images are right, because no question is about left and right.
        mirrored = torch.rand(batch) < 0.5
        image[mirrored], plane[mirrored] = image[mirrored].flip(-1), plane[mirrored].flip(-1)
        inputs = (soften(image), *pool.sample(index), content_shares(plane))
        return network(*(tensor.to(DEVICE) for tensor in inputs))

    metrics = training.run(network, batch_loss)
    save_blip(out, network.blip, tokenizer)
    metrics |= evaluate_held_out(lambda split: evaluate(out, work, split, held_out))
    command = f"vqa {steps=} {batch=} {minutes=} {seed=} {images=} {rate=}"
    write_card(out, __doc__, command, [network.blip], metrics, TRAINING_NOTES)
    return metrics


def save_blip(out: Path, blip: BlipForQuestionAnswering, tokenizer: BertTokenizer) -> None:
    """Write a BLIP directory in half precision."""
    processor = BlipImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    save_half(blip, out)
    BlipProcessor(processor, tokenizer).save_pretrained(out)


def evaluate(directory: Path, work: Path, split: str = "test", count: int = 512) -> dict[str, float]:
    """Return the share of right answers of a saved network: the mean over the kinds of questions, each kind, and blind.

    "blind" is the mean over kinds of the best answers without an image.
    """
    scenes, vqa = render_dataset(work, split, count, SIZE), MultipleChoiceVQA(directory)
    questions = [compose_questions(graph) for graph in scenes.graphs]
    answers: list[list[str]] = []
    for first in range(0, count, 32):
        index = slice(first, first + 32)
        answers += vqa.answer(to_pixels(scenes.image[index]), questions[index])
    accuracy = accuracy_by_kind(questions, answers)
    blind_accuracy = accuracy_by_kind(questions, answer_blind(questions))
    mean, blind = (float(np.mean([*values.values()])) for values in (accuracy, blind_accuracy))
    return {"accuracy": mean, **accuracy, "blind": blind}


def accuracy_by_kind(questions: list[tuple[Question, ...]], answers: list[list[str]]) -> dict[str, float]:
    """Return the share of right answers of each kind of question."""
    correct: dict[str, list[bool]] = {}
    for image_questions, image_answers in zip(questions, answers, strict=True):
        for question, answer in zip(image_questions, image_answers, strict=True):
            correct.setdefault(question.kind, []).append(question.answer == answer)
    return {kind: float(np.mean(correct[kind])) for kind in sorted(correct)}


def answer_blind(questions: list[tuple[Question, ...]]) -> list[list[str]]:
    """Return the best answers without an image: the most frequent answer to the same question in the other half."""
    counts: list[dict[str, Counter]] = [{}, {}]
    for i, image_questions in enumerate(questions):
        for question in image_questions:
            counts[i % 2].setdefault(question.text, Counter())[question.answer] += 1

    def guess(question: Question, half: dict[str, Counter]) -> str:
        return max(question.choices, key=lambda choice: half.get(question.text, Counter())[choice])

    return [[guess(q, counts[1 - i % 2]) for q in image_questions] for i, image_questions in enumerate(questions)]
