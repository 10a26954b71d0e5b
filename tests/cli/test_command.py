"""Words of a command line: positional arguments and options."""

import pytest

from lumen.__main__ import COMMANDS
from lumen.cli.command import read_names, read_option
from lumen.core.errors import BadConfig


@pytest.fixture(autouse=True)
def runs(workdir):
    """Folders and files whose names have "=", as the directories of LUMEN's own runs do."""
    for name in ("lr=1e-05/seed0", "backbone=clip,lr=1e-05/seed0", "default/seed0", "backbone=clip"):
        (workdir / name).mkdir(parents=True)
    for name in ("img=1.jpg", "seed=3.jpg", "photo.jpg"):
        (workdir / name).touch()


RUN, PROMPT = "lr=1e-05/seed0", "quality=high, a red house"


@pytest.mark.parametrize(
    ("verb", "words", "positionals", "options"),
    [
        ("eval", [RUN], [RUN], {}),
        ("eval", ["backbone=clip,lr=1e-05/seed0"], ["backbone=clip,lr=1e-05/seed0"], {}),
        ("eval", [RUN, "sampling.steps=3"], [RUN], {"sampling.steps": "3"}),
        ("eval", ["sampling.steps=3", RUN], [RUN], {"sampling.steps": "3"}),
        ("eval", ["default/seed0", "backbone=clip"], ["default/seed0"], {"backbone": "clip"}),
        ("eval", ["backbone=clip", "default/seed0"], ["default/seed0"], {"backbone": "clip"}),
        ("eval", ["lr=3"], [], {"lr": "3"}),
        ("eval", ["sampling.steps=3"], [], {"sampling.steps": "3"}),
        ("train", ["scenes", "backbone=clip"], ["scenes"], {"backbone": "clip"}),
        ("train", ["backbone=clip"], [], {"backbone": "clip"}),
        ("certify", ["scenes", "lr=1e-05"], ["scenes"], {"lr": "1e-05"}),
        ("show", ["scenes", "--cost", "backbone=clip"], ["scenes"], {"--cost": "", "backbone": "clip"}),
        ("sample", [RUN, "photo.jpg", PROMPT], [RUN, "photo.jpg", PROMPT], {}),
        ("sample", [RUN, "img=1.jpg", "e=mc2"], [RUN, "img=1.jpg", "e=mc2"], {}),
        ("sample", [RUN, "seed=3.jpg", "a house", "seed=1"], [RUN, "seed=3.jpg", "a house"], {"seed": "1"}),
        ("sample", ["seed=1", RUN, "photo.jpg", "e=mc2"], [RUN, "photo.jpg", "e=mc2"], {"seed": "1"}),
        ("sample", [RUN, "photo.jpg", "seed=1", "e=mc2"], [RUN, "photo.jpg", "e=mc2"], {"seed": "1"}),
        ("sample", [RUN, "photo.jpg", "size=big, a dog"], [RUN, "photo.jpg", "size=big, a dog"], {}),
        ("sample", [RUN, "photo.jpg", "a house", "out=x.png"], [RUN, "photo.jpg", "a house"], {"out": "x.png"}),
        ("sample", [RUN, "photo.jpg", "seed=1"], [RUN, "photo.jpg"], {"seed": "1"}),
        ("sample", [RUN, "photo.jpg", "sampling.negative=a b"], [RUN, "photo.jpg"], {"sampling.negative": "a b"}),
        ("sample", [RUN, "img=9.jpg", "a house"], [RUN, "img=9.jpg", "a house"], {}),
        ("layout", ["img=1.jpg"], ["img=1.jpg"], {}),
        ("layout", ["photo.jpg", "img=1.jpg", "base=scenes"], ["photo.jpg", "img=1.jpg"], {"base": "scenes"}),
        ("layout", ["img=9.jpg"], [], {"img": "9.jpg"}),
        ("layout", ["photo.jpg", "backbone=clip"], ["photo.jpg"], {"backbone": "clip"}),
        ("data render", ["scenes", "out", "size=64"], ["scenes", "out"], {"size": "64"}),
        ("data check", ["scenes", "root=x"], ["scenes"], {"root": "x"}),
        ("cache ls", ["runs=x"], [], {"runs": "x"}),
        ("ablate", ["table1", "base=scenes", "--print"], ["table1"], {"base": "scenes", "--print": ""}),
    ],
)
def test_command_takes_words_with_an_equals_sign_by_their_place(verb, words, positionals, options):
    assert COMMANDS[verb].split(words) == (positionals, options)


@pytest.mark.parametrize("text", ["DINO,SD", "[DINO,SD]", "[DINO, SD]", "DINO, SD", "['DINO', \"SD\"]"])
def test_command_has_one_syntax_of_lists(text):
    assert read_names("rows", text) == ["DINO", "SD"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Annotated[float, Range(0, 1e9)]", "inf"),
        ("Annotated[float, Range(0, 1e9)]", "1e400"),
        ("Annotated[float, Range(0, 1e9)]", "nan"),
        ("Annotated[float, Range(0, 1e9)]", "-1"),
        ("Annotated[int, Range(1, 1_000_000)]", "9" * 5000),
        ("Annotated[int, Range(1, 1_000_000)]", "2.5"),
        ("list[str]", "[DINO"),
    ],
)
def test_command_refuses_an_option_that_cannot_be_read(kind, text):
    with pytest.raises(BadConfig, match="gb must be "):
        read_option("gb", text, kind)
