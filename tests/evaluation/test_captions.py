"""Captions by models: resumed, never overwritten by themselves, and written by each kind of model."""

import json
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

from lumen.__main__ import main
from lumen.core.errors import BadConfig, BadSample
from lumen.evaluation import caption_file
from lumen.evaluation.caption_file import CaptionFile, write_captions
from lumen.evaluation.captioner import Captioner

AUTHOR = {"model": "a", "prompt": "", "commit": None, "tokens": 8}


def photo():
    return Image.new("RGB", (40, 20), "red")


@pytest.fixture
def photos(workdir):
    """A folder of five photos, one of which has a caption in a text file."""
    for i in range(5):
        path = workdir / f"photos/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), np.uint8)).save(path)
    Path("photos/a/0.txt").write_text("a caption of a person\n")
    return workdir / "photos"


def test_captions_of_an_interrupted_command_stay(workdir):
    images, sizes = {f"{i}.jpg": photo for i in range(9)}, []

    def caption(batch, limit):
        if len(sizes) >= limit:
            raise KeyboardInterrupt
        sizes.append(len(batch))
        return [f"caption {len(sizes)}"] * len(batch)

    file = CaptionFile(Path("captions.json"), AUTHOR)
    with pytest.raises(KeyboardInterrupt):
        write_captions(images, file, lambda batch: caption(batch, 2), 2)
    file = CaptionFile(Path("captions.json"), AUTHOR)
    assert len(file.captions) == 4 and not list(workdir.glob("*.part"))
    rest = {name: read for name, read in images.items() if file.needs(name, overwrite=False)}
    assert write_captions(rest, file, lambda batch: caption(batch, 99), 2) == [] and sizes == [2, 2, 2, 2, 1]
    record = json.loads(Path("captions.model.json").read_text())
    assert record == {"authors": [AUTHOR], "images": dict.fromkeys(images, 0)}
    assert json.loads(Path("captions.json").read_text()).keys() == images.keys()


def test_captions_of_others_are_replaced_only_on_request(workdir):
    Path("captions.json").write_text('{"x": "of a person", "b/y.jpg": ["of a person", "another"]}')
    file = CaptionFile(Path("captions.json"), AUTHOR)
    assert [file.needs(name, False) for name in ("x.jpg", "b/y.jpg", "z.jpg")] == [False, False, True]
    assert all(file.needs(name, True) for name in ("x.jpg", "b/y.jpg"))
    file.add("x.jpg", "of the model")
    file.save()
    file = CaptionFile(Path("captions.json"), AUTHOR)
    assert file.captions == {"x.jpg": "of the model", "b/y.jpg": ["of a person", "another"]}
    assert not file.needs("x.jpg", True) and CaptionFile(Path("captions.json"), AUTHOR | {"prompt": "b"}).needs(
        "x.jpg", True
    )
    Path("captions.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(BadConfig, match="COCO"):
        CaptionFile(Path("captions.json"), AUTHOR)


@pytest.mark.parametrize("overwrite", [False, True])
def test_captions_have_their_author_after_a_kill_between_two_files(overwrite, workdir, monkeypatch):
    Path("captions.json").write_text('{"x": "of a person"}')
    images, write = {"x": photo, "y": photo}, caption_file.write_json

    def caption_all() -> CaptionFile:
        file = CaptionFile(Path("captions.json"), AUTHOR)
        todo = {name: read for name, read in images.items() if file.needs(name, overwrite)}
        write_captions(todo, file, lambda batch: ["of the model"] * len(batch), 2)
        return file

    with monkeypatch.context() as patch:
        patch.setattr(caption_file, "write_json", lambda path, content: write(path, content) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            caption_all()
    caption_all()
    captions, record = (json.loads(Path(f"captions{end}.json").read_text()) for end in ("", ".model"))
    assert captions == {"x": "of the model" if overwrite else "of a person", "y": "of the model"}
    assert record["images"] == dict.fromkeys(images if overwrite else "y", 0)


def test_captions_of_damaged_images_are_named_and_left_out(workdir):
    def broken():
        raise BadSample("b.jpg cannot be read; copy it again.")

    file = CaptionFile(Path("captions.json"), AUTHOR)
    problems = write_captions({"a.jpg": photo, "b.jpg": broken}, file, lambda batch: ["x"] * len(batch), 8)
    assert problems == ["b.jpg cannot be read; copy it again."] and file.captions == {"a.jpg": "x"}


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ({"model_type": "florence2", "auto_map": {"AutoModel": "code.Model"}}, [], "code of its own"),
        ({"model_type": "llama"}, [], "of the kind 'llama'"),
        ({"model_type": "florence2"}, ["prompt=<OD>"], "<DETAILED_CAPTION>"),
        (None, [], "model="),
        ({"model_type": "blip"}, ["overwrite=maybe"], "overwrite=true"),
    ],
)
def test_caption_models_that_cannot_be_used_are_refused(config, words, message, photos, capsys):
    model = photos.parent / "model"
    model.mkdir()
    if config is not None:
        (model / "config.json").write_text(json.dumps(config))
        words = [*words, "model=model"]
    before = sorted(photos.rglob("*"))
    assert main(["caption", "photos", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split()) and sorted(photos.rglob("*")) == before


def byte_vocabulary(*special):
    return {token: i for i, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}


def write_blip(path):
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "photo", "of", "red", "grass"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = small | {"vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 64} | ids
    config = BlipConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(path)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(path)


def write_florence(path):
    from transformers import (
        BartTokenizer,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    vocabulary = byte_vocabulary("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = BartTokenizer(vocab=vocabulary, merges=[], extra_special_tokens={"image_token": "<image>"})
    text = {"vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    text |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    ids = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    vision = {
        "depths": (1,),
        "patch_size": (7,),
        "patch_stride": (4,),
        "patch_padding": (3,),
        "patch_prenorm": (False,),
    }
    vision |= {"embed_dim": (16,), "num_heads": (2,), "num_groups": (2,), "window_size": 4, "projection_dim": 16}
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Florence2Config(
        text_config={"model_type": "bart", "max_position_embeddings": 256} | text | ids,
        vision_config=vision | {"drop_path_rate": 0.0},
        image_token_id=image_token,
    )
    Florence2ForConditionalGeneration(config).save_pretrained(path)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 8 * 8 + 1
    Florence2Processor(images, tokenizer).save_pretrained(path)


def write_qwen(path):
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    vocabulary = byte_vocabulary(*special, "<|image_pad|>", "<|video_pad|>")
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [*special[1:], "<|image_pad|>", "<|video_pad|>"]})
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 8}
    ids = {"vision_start_token_id": 3, "vision_end_token_id": 4, "image_token_id": 5, "video_token_id": 6}
    config = Qwen2VLConfig(text_config=text | {"rope_parameters": rope}, vision_config=vision, **ids)
    Qwen2VLForConditionalGeneration(config).save_pretrained(path)
    limits = {"patch_size": 8, "size": {"shortest_edge": 256, "longest_edge": 1024}}
    images, videos = Qwen2VLImageProcessor(**limits), Qwen2VLVideoProcessor(**limits)
    Qwen2VLProcessor(images, tokenizer, videos, chat_template=template).save_pretrained(path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("write", "prompt"),
    [(write_blip, ""), (write_florence, "<DETAILED_CAPTION>"), (write_qwen, "Describe this image in one sentence.")],
    ids=["blip", "florence2", "qwen2_vl"],
)
def test_captions_are_written_by_every_kind_of_model(write, prompt, photos, capsys):
    torch.manual_seed(0)
    write(photos.parent / "model")
    command = ["caption", "photos", "model=model", "tokens=5", "batch=3"]
    assert main(command) == 0 and "4 images captioned, 1 had captions" in capsys.readouterr().out
    captions, record = (json.loads((photos / f"captions{end}.json").read_text()) for end in ("", ".model"))
    assert captions.keys() == record["images"].keys() == {"b/1.png", "a/2.png", "b/3.png", "a/4.png"}
    assert record["authors"] == [{"model": "model", "commit": None, "prompt": prompt, "tokens": 5}]
    assert all(isinstance(caption, str) and not (prompt and prompt in caption) for caption in captions.values())
    # Photos of other sizes in a batch change no caption.
    single = ["caption", "photos", "model=model", "tokens=5", "batch=1", "out=single.json"]
    assert main(single) == 0 and json.loads(Path("single.json").read_text()).items() >= captions.items()
    assert main(command) == 0 and "0 images captioned, 5 had captions" in capsys.readouterr().out


@pytest.mark.long
def test_captions_of_a_command_that_is_killed_equal_those_of_an_undisturbed_one(photos, monkeypatch):
    torch.manual_seed(0)
    write_blip(photos.parent / "model")
    shutil.copytree(photos, "undisturbed")
    monkeypatch.setattr(caption_file, "SAVE_EVERY", 2)
    command = ["model=model", "tokens=5", "batch=1"]

    def run_until_killed() -> None:
        caption, batches = Captioner.caption, []

        def caption_three(self, batch):
            batches.append(batch)
            if len(batches) > 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return caption(self, batch)

        Captioner.caption = caption_three
        main(["caption", "photos", *command])

    assert main(["caption", "undisturbed", *command]) == 0
    process = get_context("fork").Process(target=run_until_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and len(json.loads((photos / "captions.json").read_text())) == 2
    assert main(["caption", "photos", *command]) == 0
    for name in ("captions.json", "captions.model.json"):
        assert (photos / name).read_bytes() == (photos.parent / "undisturbed" / name).read_bytes()
    assert not list(photos.rglob("*.part"))
