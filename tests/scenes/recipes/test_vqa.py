"""The visual question answerer: it is trained, loads like any BLIP, and answers as transformers' own forward would."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BlipForQuestionAnswering

from lumen.evaluation.vqa import Answerer
from lumen.scenes import render
from lumen.scenes.questions import Question, questions
from lumen.scenes.recipes.__main__ import main
from lumen.scenes.recipes.rendered_dataset import Drawn
from lumen.scenes.recipes.vae import pixels
from lumen.scenes.recipes.vqa import Pupil, blind, measure, parts, shares, tokenizer

LONG = Question("what colour is the ball on the road?", ("red", "a green ball", "is there"), "red", "colour")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def folder(work):
    small = ["steps=2", "batch=2", "images=8", "held_out=4"]
    assert main(["vqa", *small, f"out={work / 'vqa'}", f"work={work}"]) == 0
    return work / "vqa"


@pytest.fixture(scope="module")
def asked():
    """Two images, and several questions about each, of unequal lengths."""
    scenes = [render(seed, 64) for seed in (3, 5)]
    image = pixels(np.stack([scene.image for scene in scenes]))
    return image, [[*questions(scenes[0].graph), LONG], list(questions(scenes[1].graph))]


def test_it_is_small_and_tells_what_it_reaches(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert "| accuracy, test seeds |" in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_figures_are_shares(folder, work):
    figures = measure(folder, work, "test", 4)
    assert list(figures) == ["accuracy", "colour", "ground", "presence", "sky", "blind"]
    assert all(0 <= value <= 1 for value in figures.values())


def test_scores_are_those_of_transformers_own_forward(folder, asked):
    image, questions_of = asked
    processor = AutoProcessor.from_pretrained(folder)
    network = BlipForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    answerer = Answerer(folder)
    found = answerer.scores(image, questions_of)
    answered = answerer.answer(image, questions_of)
    for one, some, scores, said in zip(image, questions_of, found, answered, strict=True):
        picture = (one / 2 + 0.5).clamp(0, 1)
        for question, score, answer in zip(some, scores, said, strict=True):
            assert answer == question.choices[score.argmax()]
            inputs = processor(images=picture, text=question.text, return_tensors="pt", do_rescale=False)
            for choice, value in zip(question.choices, score, strict=True):
                labels = processor.tokenizer(choice, return_tensors="pt").input_ids
                labels[:, 0] = network.config.text_config.bos_token_id
                with torch.no_grad():
                    loss = network(**inputs, labels=labels).loss
                torch.testing.assert_close(value, -loss * (labels.shape[1] - 1), atol=1e-5, rtol=1e-5)


def test_an_image_of_another_size_is_resized_as_blip_s_processor_does(folder):
    answerer = Answerer(folder)
    image = pixels(render(7, 96).image[None])
    expected = answerer.picture(images=(image / 2 + 0.5)[0], do_rescale=False, return_tensors="pt").pixel_values
    torch.testing.assert_close(answerer.pixels(image), expected, atol=0.02, rtol=0)


def test_an_image_is_encoded_once_however_much_is_asked(folder, asked, monkeypatch):
    monkeypatch.setattr("lumen.evaluation.vqa.CHUNK", 3)
    answerer, seen = Answerer(folder), []
    answerer.network.vision_model.register_forward_hook(lambda _, args, out: seen.append(out.last_hidden_state.shape))
    image, questions_of = asked
    whole = answerer.answer(image, questions_of)
    assert seen == [(2, 65, 128)]
    alone = [answerer.answer(one[None], [some])[0] for one, some in zip(image, questions_of, strict=True)]
    assert whole == alone
    assert answerer.answer(image, [[], []]) == [[], []]


def test_questions_read_in_one_row_do_not_disturb_one_another():
    words = tokenizer()
    pupil = Pupil(words)
    texts = ["what is the ground?", "is there a red car?", "what is the sky like?", "is there an orange ball?"]
    ids = words(texts, padding=True, return_tensors="pt").input_ids
    assert words.unk_token_id not in ids
    seen = torch.randn(2, 65, 128)
    rows, lengths = pupil.read(ids.view(2, 2, -1), seen)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = pupil.blip.text_encoder(input_ids=ids[i : i + 1, :length], encoder_hidden_states=seen[i // 2][None])
        torch.testing.assert_close(row[:length], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5)
    assert lengths.tolist() == [len(words(text).input_ids) for text in texts]


def test_patches_show_what_is_there():
    scene = render(2, 64)
    planes = {name: getattr(scene, name)[None] for name in ("image", "semantic", "instance", "depth")}
    shown = parts(Drawn(**planes, captions=[list(scene.captions)], graphs=[scene.graph]))
    assert len(np.unique(shown)) == len(scene.graph["objects"]) + len(np.unique(shown[shown < 5]))
    found = shares(torch.tensor(shown))
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 64))
    first = torch.tensor(shown[0, :8, :8]).long().flatten().bincount(minlength=found.shape[-1]) / 64
    torch.testing.assert_close(found[0, 0], first)


def test_a_blind_guess_is_made_from_the_other_half():
    def asked(answer):
        return (Question("what?", ("a", "b"), answer, "colour"),)

    assert blind([asked("a"), asked("b"), asked("a"), asked("b")]) == [["b"], ["a"], ["b"], ["a"]]
