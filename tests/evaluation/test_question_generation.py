"""Generation of questions: prompt, parser and filter equal upstream's, and an interrupted command resumes."""

import json

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    pipeline,
)

from lumen.__main__ import main
from lumen.core.errors import WeightsMissing
from lumen.evaluation import question_generation
from lumen.evaluation.question_filter import PROMPT, _word_f1, filter_consistent, parse_completion
from lumen.evaluation.question_generation import AnswerVerifier, QuestionGenerator
from lumen.evaluation.scores import load_scores

# In the format of upstream's own example, with incomplete questions.
COMPLETION = """ dogs
Activities:
Colors:
Counting: three
Other attributes: photo
Questions and answers are below:
About dogs (animal):
Q: are there dogs?
Choices: yes, no
A: yes
Q: what animals are in the photo?
Choices: dogs, cats, birds, fish
A: dogs
About three (counting):
Q: how many dogs are in the photo?
Choices: 1, 2, 3, 4
A: 3
About happy (mood):
Q: are the dogs happy?
Choices: yes, no
A: yes
About no type:
Q: is it lost?
Choices: yes, no
A: yes
About photo (attribute):
Choices: yes, no
A: yes
Q: is this a photo?
Choices: yes, no
A: yes
Q: is this cut"""
PARSED = [
    ("are there dogs?", ["yes", "no"], "yes", "dogs", "animal/human"),
    ("what animals are in the photo?", ["dogs", "cats", "birds", "fish"], "dogs", "dogs", "animal/human"),
    ("how many dogs are in the photo?", ["1", "2", "3", "4"], "3", "three", "counting"),
    ("is this a photo?", ["yes", "no"], "yes", "photo", "attribute"),
]
FIELDS = ("question", "choices", "answer", "element", "element_type")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Directory of a tiny untrained Llama on bytes, whose tokenizer adds a start token by default."""
    directory = tmp_path_factory.mktemp("llama")
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokens.train_from_iterator([PROMPT], trainer)
    tokens.post_processor = processors.TemplateProcessing("<s> $0", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>").save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """Directory of a tiny untrained T5 as UnifiedQA has it: a spiece.model for tokenizer, and a pickle of weights."""
    directory = tmp_path_factory.mktemp("t5")
    sentences = [COMPLETION, "a photo of a box and a cat", "what is it? who? (A) (B) (C) (D)"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(directory / "spiece"), vocab_size=90, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=90, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        initializer_factor=5.0,
    )  # fmt: skip
    network = T5ForConditionalGeneration(config)
    network.config.save_pretrained(directory)
    network.generation_config.save_pretrained(directory)
    torch.save(network.state_dict(), directory / "pytorch_model.bin")
    return directory


@pytest.mark.parametrize(("caption", "max_length"), [("a {red} box", 512), ("a box and " * 60, None)])
def test_question_generator_equals_upstreams_pipeline(caption, max_length, llama):
    generator, prompt = QuestionGenerator(str(llama)), PROMPT.format(caption=caption)
    assert f"Description: {caption} [/INST] Entities:" in prompt
    length = len(generator.tokenizer(prompt, add_special_tokens=False).input_ids)
    assert (length < 256) == (max_length is not None)  # upstream fails on a longer prompt
    reference = pipeline("text-generation", model=generator.network, tokenizer=generator.tokenizer)
    # A pipeline of 2023 added no start token, and had no default that overrode upstream's max_length.
    options = {"add_special_tokens": False, "max_new_tokens": (max_length or length + 256) - length}
    output = reference(prompt, do_sample=False, num_beams=5, num_return_sequences=1, **options)
    expected = output[0]["generated_text"][len(prompt) :].split("\n\n")[0]
    assert len(expected) > 100 and generator.complete(caption) == expected


def test_answer_verifier_equals_upstream_and_is_independent_of_the_batch(t5):
    verifier = AnswerVerifier(str(t5))
    prompts = ["is there a dog? \n a dog", "what is it? \n a box and a cat \n (A) a box (B) a cat ", "who?"]

    def upstream(text):
        ids = AutoTokenizer.from_pretrained(t5).encode(text, return_tensors="pt")
        with torch.no_grad():
            tokens = verifier.network.generate(ids, max_new_tokens=30)
        return verifier.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]

    answers = verifier.answer(prompts)
    assert answers == [upstream(text) for text in prompts] and len(set(answers)) > 1
    reference = SentencePieceProcessor(str(t5 / "spiece.model"))
    assert all(verifier.tokenizer(text).input_ids == [*reference.encode(text), 1] for text in prompts)
    assert verifier.answer([]) == []


def test_question_generator_refuses_a_model_of_another_kind(t5):
    with pytest.raises(WeightsMissing, match="writer"):
        QuestionGenerator(str(t5))
    with pytest.raises(WeightsMissing, match="untrained reader.*reader=FOLDER"):
        AnswerVerifier("none")


def test_question_parser_equals_upstream():
    questions = parse_completion(COMPLETION)
    assert [tuple(question[field] for field in FIELDS) for question in questions] == PARSED
    assert parse_completion("") == parse_completion("no questions\n" * 9) == []


def test_question_filter_keeps_consistent_questions():
    questions = [dict(zip(FIELDS, values, strict=True)) for values in PARSED]
    questions += [questions[0] | {"answer": "no"}, questions[1] | {"question": "what is in the photo?"}]
    prompts = []

    def answer(texts):
        prompts.append(list(texts))
        choice = {"are": "yes", "what": "dogs", "how": "3", "is": "no"}
        free = {"what animals": "Dogs!", "how many": "three", "what is": "a photo of dogs, three of them"}
        with_choices = [text.count(" \n ") == 2 for text in texts]
        return [
            choice[text.split()[0]] if several else free[" ".join(text.split()[:2])]
            for text, several in zip(texts, with_choices, strict=True)
        ]

    consistent = filter_consistent(questions, "a photo of three dogs", answer)
    assert [question["question"] for question in consistent] == [question["question"] for question in questions[:3]]
    first, second = prompts
    assert first[1] == (
        "what animals are in the photo? \n a photo of three dogs \n (A) dogs (B) cats (C) birds (D) fish "
    )
    assert second[0] == "what animals are in the photo? \n a photo of three dogs" and len(first) == 5
    assert "are there dogs?" not in str(second)


@pytest.mark.parametrize(("free", "consistent"), [("a b c d e f", 1), ("a b c d e f g", 0)])
def test_question_filter_needs_a_word_f1_above_six_tenths(free, consistent):
    question = {"question": "what?", "choices": ["a b c", "h"], "answer": "a b c"}  # F1 of 0.67 and of 0.6
    answer = lambda texts: [free if text.count(" \n ") == 1 else "a b c" for text in texts]  # noqa: E731
    assert len(filter_consistent([question], "a caption", answer)) == consistent


def upstream_f1(gold, pred):
    """F1 as tifascore's question_filter.py counts it."""
    hits = len([g for g in gold if g in pred])
    missed = len(gold) - hits
    wrong = len([p for p in pred if p not in gold])
    precision = hits / (hits + wrong) if hits + wrong else 0
    recall = hits / (hits + missed) if hits + missed else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def test_question_filter_word_f1_equals_upstream():
    rng = np.random.default_rng(0)
    for _ in range(300):
        gold, pred = (rng.choice(list("abcd"), rng.integers(1, 5)).tolist() for _ in range(2))
        assert _word_f1(" ".join(gold), " ".join(pred)) == pytest.approx(upstream_f1(gold, pred))
    assert _word_f1("2", "Two.") == _word_f1("2", "two dogs") == 1 and _word_f1("two", "2") == 0


def test_questions_command_resumes_after_an_interrupt(workdir, monkeypatch, capsys):
    captions = []

    def complete(self, caption):
        captions.append(caption)
        if len(captions) == 2:
            raise KeyboardInterrupt
        return COMPLETION

    monkeypatch.setattr(question_generation, "_load", lambda *_: (None, None))
    monkeypatch.setattr(QuestionGenerator, "complete", complete)
    monkeypatch.setattr(AnswerVerifier, "answer", lambda self, prompts: ["yes" for _ in prompts])
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=4", "val=3"]) == 0
    command = ["questions", "coco_stuff", "data.root=world", "measure.images=3", "out=q.json"]
    assert main(command) == 130
    first = json.loads((workdir / "q.json").read_text())
    assert [question["question"] for question in first] == ["are there dogs?", "is this a photo?"]
    assert {question["caption"] for question in first} == {captions[0]} and first[0]["choices"] == ["yes", "no"]
    capsys.readouterr()
    assert main(command) == 0 and "3 of 3 images: q.json" in capsys.readouterr().out
    assert len(captions) == 4 and captions[1] == captions[2]
    assert json.loads((workdir / "q.json").read_text())[:2] == first
    assert main(command) == 0 and len(captions) == 4
    assert main(["questions", "scenes"]) == 2 and "captions=FILE" in capsys.readouterr().err


def test_questions_of_a_file_are_scored_by_a_run(workdir):
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=4", "val=2"]) == 0
    annotations = json.loads((workdir / "world" / "annotations" / "captions_val2017.json").read_text())["annotations"]
    last = {annotation["image_id"]: annotation["caption"] for annotation in annotations}  # of several per image
    question = {"question": "is there a house?", "choices": ["yes", "no"], "answer": "yes", "element_type": "object"}
    (workdir / "q.json").write_text(json.dumps([question | {"caption": caption} for caption in last.values()]))
    small = ["size=32", "batch=2", "validation=2", "workers=0", "warmup=1", "steps=1", "conditioning.vectors=60"]
    small += ["sampling.steps=1", "sampling.images=1", "wandb=disabled", "measure.anchors=[]"]
    small += ["backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    small += ["diffusion.weights=none", "diffusion.size=tiny"]
    tifa = ["metrics=[tifa]", "metrics.tifa.vqa=scenes", "measure.questions=q.json"]
    assert main(["train", "coco_stuff", "data.root=world", *small, *tifa]) == 0
    run_dir = next(workdir.glob("runs/coco_stuff/*/seed0"))
    assert sorted(load_scores(run_dir / "samples.parquet").caption) == sorted(last.values())
    values = json.loads((run_dir / "metrics.json").read_text())
    assert values["test/tifa"] == values["test/tifa/object"] and values["protocol"]["data"]["questions"]
