"""The README and the pages of docs: their commands run, their values agree, their files exist."""

import configparser
import importlib
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lumen.__main__ import COMMANDS, main
from lumen.config.schema import KEY_ALIASES, NESTED_SLOTS
from lumen.core.registry import backbones, conditionings, datamodules, generators, launchers, metrics, tasks

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *DOCS]
TABLE_1 = ROOT / "experiments" / "tables" / "table1.yaml"
TRACKED = "backbones|benchmarks|datamodules|docs|experiments|lumen|tests"  # directories whose paths must exist
MAX_README_WORDS = 1500

# A Stable Diffusion of two blocks, which takes a third of the time that four blocks take.
PIPELINE = next((ROOT / "tests").glob("runs/fixtures/*/pipeline"))
SMALL = [
    "size=32",
    f"diffusion.weights={PIPELINE}",
    "batch=2",
    "conditioning.vectors=60",
    "validation=2",
    "workers=0",
    "steps=1",
    "wandb=disabled",
    "metrics=[]",
]
SMALL += ["sampling.steps=1", "sampling.images=1", "devices=1"]
UNTRAINED = ["backbone.size=tiny", "backbone.weights=none"]

REGISTRIES = (backbones, datamodules, conditionings, generators, tasks, metrics, launchers)
# Words of a command before "=" that are no keys of a config.
OPTIONS = {"root", "slots", "together", "columns"} | {key for command in COMMANDS.values() for key in command.options}


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks in running text and tables."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands(*pages: Path) -> list[str]:
    """Return the lumen commands of the pages' shell blocks, each once, without comments."""
    text = "\n".join(block for page in pages for block in blocks(page, "sh")).replace("\\\n", " ")
    lines = [shlex.join(shlex.split(line, comments=True)) for line in text.splitlines() if line.startswith("lumen ")]
    return list(dict.fromkeys(lines))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Return a directory with all that the pages take for granted: photos, a data set, a finished run."""
    directory = tmp_path_factory.mktemp("readme")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(directory / "photo.jpg")
    (directory / "photos").mkdir()
    for number in range(4):
        shutil.copy(directory / "photo.jpg", directory / "photos" / f"{number}.jpg")
    assert main(["data", "render", "scenes", str(directory / "coco"), "format=coco_stuff", "size=32", "train=6"]) == 0
    scored = ["data.images=6", "measure.images=2", "metrics=[miou]", f"runs={directory / 'trained'}"]
    assert main(["train", "scenes", *SMALL, *scored]) == 0
    trained = next((directory / "trained").glob("scenes/*/seed0"))
    shutil.copytree(trained, directory / "runs" / "scenes" / "default" / "seed0")
    return directory


@pytest.mark.parametrize("command", commands(*PAGES))
def test_documented_command_runs(command, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    arguments = shlex.split(command.replace("/data/coco", "coco"))[1:]
    if arguments[0] == "train":
        arguments += [*SMALL, *([] if arguments[1] == "scenes" else UNTRAINED)]
    elif arguments[0] == "ablate":
        arguments += [] if "--print" in arguments else ["--print"]
    elif arguments[0] == "leakage":
        arguments += [*SMALL, "data.images=6", "measure.images=2"]
    elif arguments[0] == "eval":
        arguments += ["measure.images=2"]
    elif arguments[:2] == ["cache", "build"]:
        arguments += [*SMALL, "data.images=6"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output
    if arguments[0] == "show" and "--cost" in arguments:
        page = (ROOT / "docs" / "performance.md").read_text()
        documented = re.search(r"four lines of it.*?```\n(.*?)```", page, re.DOTALL)[1]
        printed, documented = ({" ".join(line.split()) for line in text.splitlines()} for text in (output, documented))
        assert len(documented) == 4 and documented <= printed


def test_messages_of_the_cache_are_those_of_the_docs(world, monkeypatch, capsys):
    def without_numbers(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if line.startswith("cache: ")]
        return [re.sub(r"-?[\d.]+( \w?B\b| s\b| minutes)?", "#", line) for line in lines]

    monkeypatch.chdir(world)
    assert main(["train", "scenes", *SMALL, "data.images=4", "cache=always"]) == 0
    documented = next(block for block in blocks(ROOT / "docs" / "performance.md", "") if block.startswith("cache: "))
    assert without_numbers(capsys.readouterr().out) == without_numbers(documented)


def test_python_block_of_the_readme_samples_from_a_run(world, monkeypatch):
    monkeypatch.chdir(world)
    (example,) = [block for block in blocks(README, "python") if "load_run" in block]
    names: dict = {}
    exec(example, names)
    assert names["images"] and all(isinstance(image, Image.Image) for image in names["images"])
    assert Path("night.png").exists()


def test_backbone_of_the_readme_is_found_by_its_file(tmp_path, monkeypatch, batch):
    (example,) = [block for block in blocks(README, "python") if "backbones.register" in block]
    name = re.match(r"# backbones/(\w+)\.py\n", example)[1]
    (tmp_path / f"{name}.py").write_text(example)
    package = importlib.import_module("backbones")
    package.__path__.append(str(tmp_path))
    try:
        backbone = backbones.build(name)
        assert name in backbones.names() and backbones.summary(name)
        height = batch.image.shape[-1] // backbone.stride
        assert backbone.features(batch.image).shape == (len(batch.image), backbone.channels, height, height)
    finally:
        package.__path__.remove(str(tmp_path))


def test_readme_begins_with_the_two_commands_of_continuous_integration():
    install, test = [line for line in README.read_text().splitlines() if line.startswith("pip install")][:2]
    assert install == "pip install -e . && lumen train scenes"
    assert test == "pip install -e '.[dev]' && pytest"


def test_readme_is_short():
    assert len(README.read_text().split()) <= MAX_README_WORDS


def test_readme_quotes_the_papers_values_of_table_1():
    rows = yaml.safe_load(TABLE_1.read_text())["rows"]
    columns = ("miou", "si_depth", "fid", "lpips", "tifa")
    for name, row in rows.items():
        published = row["published"]["coco_stuff"]
        line = re.search(rf"^\| paper: {name} \| (.*) \|$", README.read_text(), re.MULTILINE)[1]
        assert [float(cell) for cell in line.split("|")] == [published[column] for column in columns]


def test_docs_show_every_verb_and_every_component():
    text = "\n".join(page.read_text() for page in PAGES)
    assert [verb for verb in COMMANDS if f"lumen {verb}" not in text] == []
    missing = [name for registry in REGISTRIES for name in registry.names() if not re.search(rf"\b{name}\b", text)]
    assert missing == []
    assert [registry.group for registry in REGISTRIES if f"`{registry.group}`" not in text] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_docs_page_begins_with_an_example(page):
    title, blank, fence = page.read_text().splitlines()[:3]
    assert title.startswith("# ") and not blank and fence in ("```sh", "```python")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_files_that_exist(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    for link in [link for link in links if not link.startswith("http")]:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in [_anchor(title) for title in re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)]
    for path in [code for code in inline_code(page) if re.fullmatch(rf"({TRACKED})/[\w./]+", code)]:
        assert path == "docs/measures.md" or "NAME" in path or (ROOT / path).exists(), path


def _anchor(title: str) -> str:
    """Return the anchor that a page's title gets."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_commands_that_exist(page):
    for command in [code for code in inline_code(page) if code.startswith("lumen ")]:
        one, two = [*command.split()[1:3], ""][:2]
        assert one in (*COMMANDS, "VERB", "--version") or f"{one} {two}" in COMMANDS, command
    text = page.read_text() if page.name != "changes.md" else page.read_text().replace("-m lumen.recipes", "")
    for module in re.findall(r"python -m ([\w.]+[\w])", text):
        assert find_spec(module), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docs_name_keys_that_exist(page):
    base = yaml.safe_load((ROOT / "experiments" / "base.yaml").read_text())
    keys = (
        set(base)
        | KEY_ALIASES.keys()
        | {f"{key}.{inner}" for key in base if isinstance(base[key], dict) for inner in base[key]}
    )
    slots = {"data": datamodules, "task": tasks, "generator": generators, "backbone": backbones}
    slots |= {"conditioning": conditionings} | NESTED_SLOTS
    keys |= {f"{slot}.{key}" for slot in slots for name in slots[slot].names() for key in slots[slot].arguments(name)}
    keys |= {f"metrics.{name}.{key}" for name in metrics.names() for key in metrics.arguments(name)}
    keys |= {f"{name}.{key}" for name in launchers.names() for key in launchers.arguments(name)}
    rows = ["eval", "synthetic", *(path.stem for path in (ROOT / "experiments").glob("*.yaml"))]
    flags = [code for code in inline_code(page) if not re.search(r"[(#\"]", code)]  # no Python, no comments
    for key in re.findall(r"(?:^|\s)([a-z_][\w.]*)=", "\n".join(flags)):
        assert key in keys | OPTIONS or (key.partition(".")[0] in rows and key.partition(".")[2] in keys), key


def test_layers_of_the_docs_are_those_that_are_enforced():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    enforced = parser["importlinter:contract:layers"]["layers"].split("\n")
    section = (ROOT / "docs" / "develop.md").read_text().partition("## Layers\n")[2].partition("\n## ")[0]
    documented = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].splitlines()
    assert [line.split() for line in documented] == [line.split() for line in enforced if line]


def test_table_of_the_docs_is_part_of_table_1():
    example, *_ = blocks(ROOT / "docs" / "tables.md", "yaml")
    table, documented = (yaml.safe_load(text) for text in (TABLE_1.read_text(), example))
    assert documented["base"] == table["base"]
    for name, row in documented["rows"].items():
        assert row["flag"] == table["rows"][name]["flag"]
        assert row["published"]["coco_stuff"].items() <= table["rows"][name]["published"]["coco_stuff"].items()


def test_files_of_a_run_are_those_of_the_docs(world):
    section = (ROOT / "docs" / "commands.md").read_text().partition("## Files of a run\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    documented -= {"samples.parquet", "reference_rows.parquet"}  # no metric here
    existing = {path.name + "/" * path.is_dir() for path in (world / "runs/scenes/default/seed0").iterdir()}
    assert documented <= existing
