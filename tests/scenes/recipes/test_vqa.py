"""Recipe of visual question answering: it loads like any BLIP, and answers as transformers' own forward."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BlipForQuestionAnswering

from lumen.evaluation.vqa import MultipleChoiceVQA
from lumen.scenes import render
from lumen.scenes.questions import Question, compose_questions
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.rendered_dataset import RenderedScenes
from lumen.scenes.recipes.vae import to_pixels
from lumen.scenes.recipes.vqa import (
    PatchSupervisedBlip,
    answer_blind,
    build_tokenizer,
    content_map,
    content_shares,
    evaluate,
)

LONG = Question("what colour is the ball on the road?", ("red", "a green ball", "is there"), "red", "colour")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def directory(work):
    small = ["steps=2", "batch=2", "images=8", "held_out=4"]
    assert main(["vqa", *small, f"out={work / 'vqa'}", f"work={work}"]) == 0
    return work / "vqa"


@pytest.fixture(scope="module")
def example():
    """Two images, and several questions of unequal lengths about each."""
    scenes = [render(seed, 64) for seed in (3, 5)]
    image = to_pixels(np.stack([scene.image for scene in scenes]))
    return image, [[*compose_questions(scenes[0].graph), LONG], list(compose_questions(scenes[1].graph))]


def test_vqa_directory_is_small_and_has_a_model_card(directory):
    assert sum(file.stat().st_size for file in directory.iterdir()) < 6e6
    assert "| accuracy, test seeds |" in (directory / "README.md").read_text()
    assert {path.name for path in directory.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_vqa_metrics_are_shares(directory, work):
    metrics = evaluate(directory, work, "test", 4)
    assert list(metrics) == ["accuracy", "colour", "ground", "presence", "sky", "blind"]
    assert all(0 <= value <= 1 for value in metrics.values())


def test_vqa_scores_equal_transformers_own_forward(directory, example):
    images, questions = example
    processor = AutoProcessor.from_pretrained(directory)
    network = BlipForQuestionAnswering.from_pretrained(directory, dtype=torch.float32)
    vqa = MultipleChoiceVQA(directory)
    scores, answers = vqa.score_choices(images, questions), vqa.answer(images, questions)
    for image, *results in zip(images, questions, scores, answers, strict=True):
        pixels = (image / 2 + 0.5).clamp(0, 1)
        for question, score, answer in zip(*results, strict=True):
            assert answer == question.choices[score.argmax()]
            inputs = processor(images=pixels, text=question.text, return_tensors="pt", do_rescale=False)
            for choice, value in zip(question.choices, score, strict=True):
                labels = processor.tokenizer(choice, return_tensors="pt").input_ids
                labels[:, 0] = network.config.text_config.bos_token_id
                with torch.no_grad():
                    loss = network(**inputs, labels=labels).loss
                torch.testing.assert_close(value, -loss * (labels.shape[1] - 1), atol=1e-5, rtol=1e-5)


def test_vqa_resizes_images_like_the_processor_of_blip(directory):
    vqa = MultipleChoiceVQA(directory)
    image = to_pixels(render(7, 96).image[None])
    output = vqa.image_processor(images=(image / 2 + 0.5)[0], do_rescale=False, return_tensors="pt")
    torch.testing.assert_close(vqa.preprocess(image), output.pixel_values, atol=0.02, rtol=0)


def test_vqa_encodes_an_image_once_for_all_its_questions(directory, example, monkeypatch):
    monkeypatch.setattr("lumen.evaluation.vqa.MAX_QUESTIONS_PER_PASS", 3)
    vqa, shapes = MultipleChoiceVQA(directory), []
    vqa.network.vision_model.register_forward_hook(lambda _, args, out: shapes.append(out.last_hidden_state.shape))
    images, questions = example
    together = vqa.answer(images, questions)
    assert shapes == [(2, 65, 128)]
    assert together == [vqa.answer(image[None], [group])[0] for image, group in zip(images, questions, strict=True)]
    assert vqa.answer(images, [[], []]) == [[], []]


def test_questions_in_one_row_are_encoded_independently():
    tokenizer = build_tokenizer()
    network = PatchSupervisedBlip(tokenizer)
    texts = ["what is the ground?", "is there a red car?", "what is the sky like?", "is there an orange ball?"]
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    assert tokenizer.unk_token_id not in ids
    tokens = torch.randn(2, 65, 128)
    rows, lengths = network.encode_questions(ids.view(2, 2, -1), tokens)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        single = network.blip.text_encoder(
            input_ids=ids[i : i + 1, :length], encoder_hidden_states=tokens[i // 2][None]
        )
        torch.testing.assert_close(row[:length], single.last_hidden_state[0], atol=1e-5, rtol=1e-5)
    assert lengths.tolist() == [len(tokenizer(text).input_ids) for text in texts]


def test_content_shares_count_the_pixels_of_each_patch():
    scene = render(2, 64)
    planes = {name: getattr(scene, name)[None] for name in ("image", "semantic", "instance", "depth")}
    contents = content_map(RenderedScenes(**planes, captions=[list(scene.captions)], graphs=[scene.graph]))
    backgrounds = np.unique(contents[contents < 5])
    assert len(np.unique(contents)) == len(scene.graph["objects"]) + len(backgrounds)
    shares = content_shares(torch.tensor(contents))
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 64))
    expected = torch.tensor(contents[0, :8, :8]).long().flatten().bincount(minlength=shares.shape[-1]) / 64
    torch.testing.assert_close(shares[0, 0], expected)


def test_blind_answer_is_the_most_frequent_one_of_the_other_half():
    def question(answer):
        return (Question("what?", ("a", "b"), answer, "colour"),)

    answers = answer_blind([question("a"), question("b"), question("a"), question("b")])
    assert answers == [["b"], ["a"], ["b"], ["a"]]
