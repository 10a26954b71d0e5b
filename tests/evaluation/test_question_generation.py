"""Questions by language models: prompt, completion and rules are upstream's, and what is asked already is kept."""

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
from lumen.evaluation import question_filter as drafts
from lumen.evaluation import question_generation as asking
from lumen.evaluation.question_generation import Reader, Writer
from lumen.evaluation.scores import load_samples

# In the form of upstream's own example, with lines that no question comes of.
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
    """A tiny untrained Llama that reads bytes, and opens every text by a token of its own if it is let."""
    folder = tmp_path_factory.mktemp("llama")
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokens.train_from_iterator([drafts.PROMPT], trainer)
    tokens.post_processor = processors.TemplateProcessing("<s> $0", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny untrained T5 with its tokenizer as UnifiedQA has it: a spiece.model, its weights a pickle."""
    folder = tmp_path_factory.mktemp("t5")
    sentences = [COMPLETION, "a photo of a box and a cat", "what is it? who? (A) (B) (C) (D)"]
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "spiece"), vocab_size=90, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=90, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        initializer_factor=5.0,
    )  # fmt: skip
    network = T5ForConditionalGeneration(config)
    network.config.save_pretrained(folder)
    network.generation_config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize(("caption", "longest"), [("a {red} box", 512), ("a box and " * 60, None)])
def test_a_draft_is_what_upstreams_pipeline_says(caption, longest, llama):
    writer, prompt = Writer(str(llama)), drafts.PROMPT.format(caption=caption)
    assert f"Description: {caption} [/INST] Entities:" in prompt
    length = len(writer.tokenizer(prompt, add_special_tokens=False).input_ids)
    assert (length < 256) == (longest is not None)  # upstream fails of a longer one
    theirs = pipeline("text-generation", model=writer.network, tokenizer=writer.tokenizer)
    # A pipeline of 2023 added no opening token, and had no default that came before upstream's max_length.
    then = {"add_special_tokens": False, "max_new_tokens": (longest or length + 256) - length}
    said = theirs(prompt, do_sample=False, num_beams=5, num_return_sequences=1, **then)
    expected = said[0]["generated_text"][len(prompt) :].split("\n\n")[0]
    assert len(expected) > 100 and writer.draft(caption) == expected


def test_a_reader_answers_many_as_it_answers_one(t5):
    reader = Reader(str(t5))
    asked = ["is there a dog? \n a dog", "what is it? \n a box and a cat \n (A) a box (B) a cat ", "who?"]

    def upstreams(text):
        ids = AutoTokenizer.from_pretrained(t5).encode(text, return_tensors="pt")
        with torch.no_grad():
            found = reader.network.generate(ids, max_new_tokens=30)
        return reader.tokenizer.batch_decode(found, skip_special_tokens=True)[0]

    answers = reader.answers(asked)
    assert answers == [upstreams(text) for text in asked] and len(set(answers)) > 1
    theirs = SentencePieceProcessor(str(t5 / "spiece.model"))
    assert all(reader.tokenizer(text).input_ids == [*theirs.encode(text), 1] for text in asked)
    assert reader.answers([]) == []


def test_a_model_of_another_kind_is_one_sentence(t5, tmp_path):
    with pytest.raises(WeightsMissing, match="the weights of writer cannot be read"):
        Writer(str(t5))
    with pytest.raises(WeightsMissing, match="an untrained reader knows no questions"):
        Reader("none")


def test_a_completion_is_read_as_upstream_reads_it():
    assert [tuple(one[field] for field in FIELDS) for one in drafts.parsed(COMPLETION)] == PARSED
    assert drafts.parsed("") == drafts.parsed("no questions\n" * 9) == []


def test_questions_stand_where_a_reader_agrees():
    found = [dict(zip(FIELDS, one, strict=True)) for one in PARSED]
    found += [found[0] | {"answer": "no"}, found[1] | {"question": "what is in the photo?"}]
    asked = []

    def reader(texts):
        asked.append(list(texts))
        choice = {"are": "yes", "what": "dogs", "how": "3", "is": "no"}
        free = {"what animals": "Dogs!", "how many": "three", "what is": "a photo of dogs, three of them"}
        lettered = [text.count(" \n ") == 2 for text in texts]
        return [
            choice[text.split()[0]] if several else free[" ".join(text.split()[:2])]
            for text, several in zip(texts, lettered, strict=True)
        ]

    standing = drafts.stand(found, "a photo of three dogs", reader)
    assert [one["question"] for one in standing] == [found[n]["question"] for n in (0, 1, 2)]
    assert asked[0][1] == (
        "what animals are in the photo? \n a photo of three dogs \n (A) dogs (B) cats (C) birds (D) fish "
    )
    assert asked[1][0] == "what animals are in the photo? \n a photo of three dogs" and len(asked[0]) == 5
    assert "are there dogs?" not in str(asked[1])


@pytest.mark.parametrize(("free", "stands"), [("a b c d e f", 1), ("a b c d e f g", 0)])
def test_a_free_answer_must_share_more_than_six_tenths(free, stands):
    one = {"question": "what?", "choices": ["a b c", "h"], "answer": "a b c"}  # F1 of 0.67 and of 0.6
    reader = lambda texts: [free if text.count(" \n ") == 1 else "a b c" for text in texts]  # noqa: E731
    assert len(drafts.stand([one], "a caption", reader)) == stands


def prf(gold, pred):
    """F1 as tifascore's question_filter.py counts it."""
    hits = len([g for g in gold if g in pred])
    missed = len(gold) - hits
    wrong = len([p for p in pred if p not in gold])
    precision = hits / (hits + wrong) if hits + wrong else 0
    recall = hits / (hits + missed) if hits + missed else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0


def test_agreement_of_free_answers_is_upstreams():
    rng = np.random.default_rng(0)
    for _ in range(300):
        gold, given = (rng.choice(list("abcd"), rng.integers(1, 5)).tolist() for _ in range(2))
        assert drafts._f1(" ".join(gold), " ".join(given)) == pytest.approx(prf(gold, given))
    assert drafts._f1("2", "Two.") == drafts._f1("2", "two dogs") == 1 and drafts._f1("two", "2") == 0


def test_a_command_writes_questions_and_goes_on(place, monkeypatch, capsys):
    made = []

    def draft(self, caption):
        made.append(caption)
        if len(made) == 2:
            raise KeyboardInterrupt
        return COMPLETION

    monkeypatch.setattr(asking, "_loaded", lambda *_: (None, None))
    monkeypatch.setattr(Writer, "draft", draft)
    monkeypatch.setattr(Reader, "answers", lambda self, texts: ["yes" for _ in texts])
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=4", "val=3"]) == 0
    command = ["questions", "coco_stuff", "data.root=world", "measure.images=3", "out=q.json"]
    assert main(command) == 130
    first = json.loads((place / "q.json").read_text())
    assert [one["question"] for one in first] == ["are there dogs?", "is this a photo?"]
    assert {one["caption"] for one in first} == {made[0]} and first[0]["choices"] == ["yes", "no"]
    assert main(command) == 0 and "questions about 3 of 3 images: q.json" in capsys.readouterr().out
    assert len(made) == 4 and made[1] == made[2] and json.loads((place / "q.json").read_text())[:2] == first
    assert main(command) == 0 and len(made) == 4
    assert main(["questions", "scenes"]) == 2 and "no captions in files" in capsys.readouterr().err


def test_a_run_is_asked_the_questions_of_its_file(place):
    assert main(["data", "render", "scenes", "world", "format=coco_stuff", "size=32", "train=4", "val=2"]) == 0
    said = json.loads((place / "world" / "annotations" / "captions_val2017.json").read_text())
    last = {note["image_id"]: note["caption"] for note in said["annotations"]}  # of several
    about = {"question": "is there a house?", "choices": ["yes", "no"], "answer": "yes", "element_type": "object"}
    (place / "q.json").write_text(json.dumps([about | {"caption": caption} for caption in last.values()]))
    small = ["size=32", "batch=2", "validation=2", "workers=0", "warmup=1", "steps=1", "conditioning.vectors=60"]
    small += ["sampling.steps=1", "sampling.images=1", "wandb=disabled", "measure.anchors=[]"]
    small += ["backbone=dino", "backbone.size=tiny", "backbone.patch=8", "backbone.weights=none"]
    small += ["diffusion.weights=none", "diffusion.size=tiny"]
    judged = ["metrics=[tifa]", "metrics.tifa.vqa=scenes", "measure.questions=q.json"]
    assert main(["train", "coco_stuff", "data.root=world", *small, *judged]) == 0
    made = next(place.glob("runs/coco_stuff/*/seed0"))
    assert sorted(load_samples(made / "samples.parquet").caption) == sorted(last.values())
    figures = json.loads((made / "metrics.json").read_text())
    assert figures["test/tifa"] == figures["test/tifa/object"] and figures["protocol"]["data"]["questions"]
