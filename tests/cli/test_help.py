"""Help: every verb, key and component explains itself, from its own source."""

import shlex

import pytest

from lumen import __version__
from lumen.__main__ import COMMANDS, main
from lumen.cli.help import explain, overview, topics
from lumen.cli.kinds import KINDS
from lumen.cli.listing import list_all, list_topic, list_topics
from lumen.config.experiment import list_experiments, load
from lumen.config.keys import KEYS
from lumen.config.reference import read_groups, read_reference
from lumen.config.schema import RANGES, Config
from lumen.core.errors import UnknownName
from lumen.core.type_words import format_value
from lumen.sweeps.specs import table_names
from lumen.sweeps.table_reader import read_table

COMPONENTS = [(kind, name) for kind, registry in KINDS.items() for name in registry.names()]


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"], ["-h"]], ids=str)
def test_help_names_every_command_on_one_line(arguments, capsys):
    assert main(arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for verb, command in COMMANDS.items():
        assert command.help.endswith(".") and [*verb.split(), *command.help.split()] in lines


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_verb_explains_all_that_its_usage_names(verb, capsys):
    assert main(["help", *verb.split()]) == 0
    text = capsys.readouterr().out
    for flag in ("--help", "-h"):
        assert main([*verb.split(), flag]) == 0 and capsys.readouterr().out == text
    command = COMMANDS[verb]
    assert text.startswith(f"usage: {command.usage}\n") and command.help in text
    explained = {line.strip().partition("  ")[0]: line.strip().partition("  ")[2] for line in text.splitlines()}
    words = [word for place in command.placeholders for word in place.split("|") if word.isupper()]
    words += [f"{key}={value}" if value else key for key, value in command.options.items()]
    assert all(explained.get(word, "").strip() for word in words), (words, text)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_of_a_verb_has_two_examples_that_work(verb):
    command = COMMANDS[verb]
    examples = command.documentation.sections["Examples"]
    assert len(examples) >= 2
    for example in examples:
        program, *words = shlex.split(example.partition(" |")[0].removeprefix("source <(").rstrip(")"))
        assert program == "lumen"
        if words == ["--version"]:
            continue
        assert " ".join(words).startswith(verb)
        positionals, options = command.split(words[len(verb.split()) :])
        places = [place for place in command.placeholders if place != "..."]
        assert len(positionals) >= len(places) or verb in ("list", "help")
        settings = [f"{key}={value}" for key, value in options.items() if key not in command.options]
        if command.takes_settings:
            experiment = options.get("base", next(iter(positionals), "scenes"))
            if "TABLE" in places and positionals[0] not in table_names():  # whose keys have lists
                read_table(positionals[0], options.get("base"), 1, settings)
            elif verb.split()[0] != "runs":  # whose settings select runs
                load(experiment if experiment in list_experiments() else "scenes", settings, complete=False)
        elif verb != "data check":
            assert not settings


def test_help_has_every_key_and_its_comment():
    reference = read_reference()
    records = {"experiment", "defaults", "flags"}
    assert reference.keys() == {key for key in KEYS if not key.endswith(".name")} - records
    assert [key for key in reference.values() if not key.comment] == []
    for name, key in reference.items():
        text = explain(name)
        assert key.setting in text and key.readers, name
        assert name not in RANGES or " from " in text


def test_help_of_a_key_has_the_default_of_the_config():
    settings = {key: value.default for key, value in read_reference().items()}
    config = load("coco_stuff", ["data=coco_stuff"], complete=False)
    for key in ("lr", "steps", "ema", "cache", "memory"):
        assert settings[key] == getattr(config, key)
    assert settings["sampling.guidance"] == config.sampling.guidance and settings["data"] == config.data["name"]
    text = " ".join(explain("lr").split())  # however wide the terminal is
    assert "lr=1e-05" in text and "AdamW" in text and "from 1e-15 to 100" in text and "lumen/runs/build.py" in text
    assert "scenes: 0.001" in text and "lumen eval cannot change it" in text


def test_help_joins_a_comment_over_lines_and_shares_that_of_a_group():
    assert read_reference()["diffusion.hint"].comment.count("(") == 3
    assert read_reference()["every.validate"].comment == read_reference()["every.log"].comment == "steps"


@pytest.mark.parametrize("group", read_groups())
def test_help_of_a_group_has_all_its_keys(group):
    text = explain(group)
    names = [name for name in KEYS if name.startswith(f"{group}.")]
    assert names and all(f"  {name}=" in text for name in names)
    assert set(read_groups()) < set(Config.__annotations__)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_help_of_a_component_has_its_arguments_with_values_and_defaults(kind, name):
    registry = KINDS[kind]
    text = explain(name)
    assert registry.summary(name) and registry.summary(name) in " ".join(text.split())
    for key, argument in registry.arguments(name).items():
        assert argument.required or f".{key}={format_value(argument.default)}" in text
        assert all(choice in text for choice in argument.choices)


def test_help_of_all_other_topics_is_not_empty():
    others = set(topics()) - {name for _, name in COMPONENTS} - read_reference().keys() - COMMANDS.keys()
    assert len(others) > 50 and [topic for topic in others if len(explain(topic).split()) < 3] == []


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("backbone.size", ("dino ", "dinov2 ", "small", "giant")),
        ("metrics.lpips.trunk", ("lpips", "text")),
        ("sd", ("backbone sd",)),
        ("data", ("lumen data check", "data=coco_stuff", "lumen list data")),
        ("table1", ("table table1", "Which features")),
        ("scenes", ("experiment scenes", "data set scenes")),
        ("wandb", ("wandb.mode=auto", "short for wandb.mode")),
        ("keys", ("lr=1e-05", "wandb.artifacts=false")),
    ],
)
def test_help_knows_every_meaning_of_a_name(topic, words):
    text = " ".join(explain(topic).split())
    assert all(" ".join(word.split()) in text for word in words)


@pytest.mark.parametrize("verb", ["help", "list"])
def test_help_on_nothing_names_the_nearest(verb, capsys):
    assert main([verb, "bakbone"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'backbone'" in error and f"`lumen {verb}` lists all" in error


def test_help_of_an_unknown_verb_is_a_mistake(capsys):
    assert main(["trian", "--help"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "registry"), KINDS.items())
def test_list_of_a_kind_has_all_its_components(kind, registry):
    texts = {list_topic(form) for form in (kind, registry.package.rpartition(".")[2], f"{registry.noun}s")}
    assert len(texts) == 1
    assert all(f"{registry.noun} {name}: " in text for name in registry.names() for text in texts)


def test_list_of_names_has_what_each_says():
    assert list_topic("dino").count("backbone.facet=key") == 1
    assert all(name in list_topic("experiments") for name in list_experiments())
    assert "table1" in list_topic("tables") and list_topic("keys") == explain("keys")
    assert all(list_topic(topic) for topic in list_topics()) and "backbone.facet" in list_all()


def test_overview_is_grouped():
    titles = [line for line in overview().splitlines() if line.startswith("Commands")]
    assert len(titles) == len(set(titles)) >= 5


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["-V"]], ids=str)
def test_version_names_the_commit(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith(f"lumen {__version__}")


@pytest.mark.parametrize("arguments", [["version", "x"], ["list", "a", "b"], ["list", "a=b"], ["help", "a=b"]], ids=str)
def test_information_takes_no_other_arguments(arguments, capsys):
    assert main(arguments) == 2 and capsys.readouterr().err.startswith("lumen: ")


def test_explain_raises_for_nothing():
    with pytest.raises(UnknownName):
        explain("nothing of this name")
