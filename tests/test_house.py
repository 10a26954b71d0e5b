"""Rules of the house that import-linter does not know: names, docstrings, sizes, circles, networks of a task."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("lumen", "backbones", "datamodules") for path in (ROOT / package).rglob("*.py"))
RIDDLE = re.compile(r"(What|How|Where|Whether|Which|Why)\b")
RETIRED = re.compile(
    r"Average|Course|Ear|Frame|Gathered|Journal|KEPT|Keeper|Keeping|Kept|Known|LayoutModule|Live|Looked|"
    r"Measurement|Mixed|Once|PLACE|Pieces|Rows|Shelf|Stock|Stream|Survey|TOGETHER|Tracker|View|WholeFiles|"
    r"Witness|apart|attending|beside|bill|claim|damaged|deaf|drawn|draws|each|evidence|figure|figures|followed|"
    r"found|gather|gathering|instead|judge|judged|judges|kept|least|listening|look|looked|looks|made|mine|"
    r"once|one|ours|painted|place_of|redrawn|rest|said|seed_of|seen|sent|settle|shown|some|spared|stamps|stand|"
    r"standing|stock|theirs|there|told|wants|within"
)
TASK_NETWORKS = {"controlnet", "unet", "vae", "text_encoder", "diffusion", "conditioning"}
OWNERS = ("lumen/training/tasks", "lumen/generators", "lumen/diffusion", "lumen/scenes", "backbones", "datamodules")
TEXT_CALLS = ("path.read_text()", "open(path)", "path.open('a')", "subprocess.run(command, text=True)")
MAX_LINES, MAX_MEDIAN, MAX_ENTRIES = 250, 80, 16


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}


def definitions(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions, classes, constants and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef | ast.Module):
            for statement in node.body:
                targets = (
                    statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                )
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def locals_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        if isinstance(node, ast.arg):
            yield node.arg


def imports_of(tree: ast.Module, module: str) -> Iterator[str]:
    """Yield imported modules of the project, those under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_docstrings_begin_with_a_noun_or_a_verb(trees):
    kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
    riddles = [
        f"{path}: {docstring.splitlines()[0]}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds) and RIDDLE.match(docstring := ast.get_docstring(node) or "")
    ]
    assert riddles == []


def test_names_are_none_of_the_retired_words(trees):
    retired = sorted(
        {f"{path}: {name}" for path, tree in trees.items() for name in definitions(tree) if RETIRED.fullmatch(name)}
    )
    assert retired == []


def test_local_names_are_none_of_the_retired_words(trees):
    retired = sorted(
        {f"{path}: {name}" for path, tree in trees.items() for name in locals_of(tree) if RETIRED.fullmatch(name)}
    )
    assert retired == []


def test_networks_of_a_task_are_named_by_its_own_file(trees):
    places = []
    for path, tree in trees.items():
        if path.startswith(OWNERS):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in TASK_NETWORKS:
                owner = ast.unparse(node.value)
                if not owner.endswith(
                    ("config", "tree", "config.diffusion", "self.network")
                ):  # keys of the config; BLIP
                    places.append(f"{path}:{node.lineno}: {owner}.{node.attr}")
    assert places == []


def test_modules_are_short():
    lines = {
        path: sum(1 for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("#"))
        for path in SOURCES
    }
    long = {path.relative_to(ROOT).as_posix(): count for path, count in lines.items() if count > MAX_LINES}
    assert long == {} and statistics.median(lines.values()) <= MAX_MEDIAN


def test_the_package_shows_few_entries():
    entries = [entry.name for entry in (ROOT / "lumen").iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= MAX_ENTRIES


def test_modules_import_one_another_in_no_circle(trees):
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees}
    graph = {
        name: {target for target in imports_of(trees[path], name) if target in names and target != name}
        for name, path in names.items()
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name in finished:
            return
        for target in graph[name]:
            visit(target, (*trail, name))
        finished.add(name)

    for name in graph:
        visit(name, ())


def opens_text(call: ast.Call) -> bool:
    """Return whether a call opens a file or a pipe as text without naming the encoding, which the locale decides."""
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else None
    name = call.func.attr if owner else getattr(call.func, "id", "")
    keywords = {keyword.arg for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in ("read_text", "write_text"):
        return owner is not None
    modes = [ast.unparse(argument) for argument in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]]
    is_text = not any(re.search(r"['\"][rwax+]*b[rwax+]*['\"]", mode) for mode in modes)
    return (name == "open" and owner not in ("Image", "os") and is_text) or (
        name in ("run", "Popen") and "text" in keywords
    )


def test_text_files_name_their_encoding(trees):
    calls = [(path, node) for path, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [f"{path}:{node.lineno}" for path, node in calls if opens_text(node)] == []
    assert len(list(filter(opens_text, (ast.parse(text, mode="eval").body for text in TEXT_CALLS)))) == len(TEXT_CALLS)


def test_paths_of_users_are_read_by_one_function(trees):
    places = {path for path, tree in trees.items() if re.search(r"\bexpanduser\(", ast.unparse(tree))}
    assert places == {"lumen/core/paths.py"}
