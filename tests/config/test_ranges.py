"""Ranges: every number that a config may set has one, which is checked before anything is built."""

import ast
import math
from typing import Annotated, get_args, get_type_hints

import pytest

from lumen.config.experiment import load
from lumen.config.schema import RANGES, REGISTRIES, Config
from lumen.core.arguments import Argument
from lumen.core.errors import BadConfig
from lumen.core.plugins import Plugin
from lumen.core.ranges import LayerRange, Range
from lumen.core.registry import launchers, tasks
from lumen.sweeps.ablate import parse_launcher

COMPONENTS = [
    pytest.param(registry, name, id=f"{key}={name}")
    for key, registry in (REGISTRIES | {"launcher": launchers}).items()
    for name in registry.names()
]
HUGE = "9" * 40


def numbers_of(schema: type, prefix: str = "") -> set[str]:
    """Return the dotted keys of a schema that hold a number."""
    found = set()
    for name, hint in get_type_hints(schema).items():
        kinds = get_args(hint) or [hint]
        found |= {prefix + name} if {int, float} & set(kinds) else set()
        found |= numbers_of(hint, f"{prefix}{name}.") if hasattr(hint, "__dataclass_fields__") else set()
    return found


def test_ranges_of_the_schema_cover_every_number():
    assert RANGES.keys() == numbers_of(Config)
    assert all(math.isfinite(found.low) and math.isfinite(found.high) for found in RANGES.values())


@pytest.mark.parametrize(("registry", "name"), COMPONENTS)
def test_ranges_of_components_cover_every_number_and_hold_its_default(registry, name):
    arguments = registry.arguments(name)
    defaults = {key: argument.default for key, argument in arguments.items()}
    for key, argument in arguments.items():
        names = {node.id for node in ast.walk(argument.annotation) if isinstance(node, ast.Name)}
        assert argument.ranges or not {"int", "float"} & names, f"{name}.{key} has no range"
        assert argument.required or argument.find_problem(argument.default, defaults) is None


@pytest.mark.parametrize(
    "flag",
    ["sampling.steps=1001", "sampling.steps=0", "data.images=0", "data.images=10000001", "conditioning.vectors=1"]
    + ["conditioning.vectors=-5", "conditioning.per_image=0", "conditioning.components=0", "backbone.layer=99"]
    + [f"stop_after={time}" for time in (f"{HUGE}d", "0s", "10001d", "-1h", "inf")]
    + ["steps=0", "batch=0", "lr=0", "lr=-1e-5", "warmup=-1", "clip=-1", "ema=1.0001", "ema=-0.1", "views=0", "keep=0"]
    + ["prompt_dropout=2", "sampling.control_end=1.01", "diffusion.snr_gamma=0", "cache_gb=0", "workers=-1", "size=0"]
    + ["backbone.layer=6", "backbone.layer=[0,6]", "backbone.layer=-7", "backbone.layer=[]", "measure.samples=1"],
)
def test_ranges_refuse_a_number_that_cannot_be_meant(flag):
    with pytest.raises(BadConfig) as error:
        load("scenes", [flag])
    (line,) = str(error.value).splitlines()
    assert flag.partition("=")[0] in line and line.endswith(".") and len(line) < 220


@pytest.mark.parametrize(
    "flags",
    [
        ["backbone=sd", "backbone.layers=[99]"],
        ["backbone=sd", "backbone.weights=none", "backbone.layers=[2,12]"],
        ["backbone=sd", "backbone.timestep=-1"],
        ["backbone=sd", "backbone.timestep=1000"],
        ["backbone=dinov2", "backbone.weights=published", "backbone.layer=12"],
        ["backbone=dinov2", "backbone.size=giant", "backbone.weights=none", "backbone.layer=40"],
        ["backbone=clip", "backbone.size=tiny", "backbone.weights=none", "backbone.layer=3"],
        ["conditioning=canny", "conditioning.low=-1"],
        ["conditioning=canny", "conditioning.high=100000"],
        ["data=coco_stuff", "data.root=/nowhere", "data.flip=1.5"],
        ["data=ade20k", "data.root=/nowhere", "data.flip=nan"],
    ],
    ids=" ".join,
)
def test_ranges_refuse_arguments_beyond_a_network_or_data_set(flags):
    with pytest.raises(BadConfig, match=f"{flags[-1].partition('=')[0]} of .* must be "):
        load("scenes", flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["sampling.steps=1000", "sampling.guidance=0", "clip=0", "warmup=0", "workers=0", "ema=1", "weight_decay=0"],
        ["seed=-1", "steps=100_000", "lr=1e-12", "cache_gb=1e-6", "prompt_dropout=1", "diffusion.snr_gamma=5"],
        ["backbone.layer=-6", "conditioning.vectors=all", "conditioning.components=128", "views=null"],
        ["backbone=dinov2", "backbone.size=giant", "backbone.weights=none", "backbone.layer=39"],
        ["backbone=dino", "backbone.weights=some/folder", "backbone.layer=99"],  # its depth is known once it is loaded
        ["backbone=sd", "backbone.layers=[-1,11]", "backbone.timestep=0"],
    ],
    ids=" ".join,
)
def test_ranges_hold_numbers_that_can_be_meant(flags):
    load("scenes", flags)


@pytest.mark.parametrize("value", ["nan", "inf", "-.inf", HUGE, f"-{HUGE}"])
def test_ranges_refuse_a_number_that_no_key_can_have(value):
    with pytest.raises(BadConfig) as error:
        load("scenes", [f"{key}={value}" for key in RANGES])
    lines = str(error.value).splitlines()
    assert len(lines) == len(RANGES) and all(any(key in line for line in lines) for key in RANGES)


def test_ranges_are_all_checked_at_once():
    flags = ["sampling.steps=1001", "data.images=0", "conditioning.vectors=0", "lr=inf", "stop_after=0s"]
    flags += ["backbone.layer=9", "metrics=[lpips]", "measure.samples=1"]  # the last two are one mistake
    with pytest.raises(BadConfig) as error:
        load("scenes", flags)
    assert len(str(error.value).splitlines()) == len(flags) - 1


@pytest.mark.parametrize("flag", ["local.slots=0", "slurm.hours=inf", "slurm.hours=nan", "slurm.gpus=-1", "ray.cpus=0"])
def test_ranges_of_a_launcher(flag):
    key, _, value = flag.partition("=")
    with pytest.raises(BadConfig, match=f"{key} must be"):
        parse_launcher({"launcher": key.partition(".")[0], key: value})


def test_ranges_of_a_task_without_steps(tmp_path, monkeypatch):
    (tmp_path / "closed_form.py").write_text("@tasks.register\nclass ClosedForm(Task):\n    min_steps = 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(vars(tasks), "_plugins", {"closed_form": Plugin("closed_form", "closed_form", "acme 1.0")})
    assert load("scenes", ["task=closed_form", "steps=0"]).steps == 0
    with pytest.raises(BadConfig, match="steps must be between 0"):
        load("scenes", ["task=closed_form", "steps=-1"])


def annotation(text: str) -> Argument:
    return Argument(ast.parse(text, mode="eval").body, None, True)


def test_ranges_are_no_part_of_an_argument_s_kind():
    argument = annotation("Annotated[list[int] | None, Range(-1, 3)] | Share")
    assert argument.kind == "a list of whole numbers, null or a number"
    assert argument.ranges == [Range(-1, 3), Range(0, 1)]
    assert annotation("typing.Annotated[int, 'unit']").ranges == []
    assert annotation("float").find_problem(math.inf, {}) and annotation("float").find_problem(10**400, {}) is None
    assert annotation("int").find_problem("x" * 1000, {}) and len(annotation("int").find_problem("x" * 1000, {})) < 80


def test_layer_range_follows_size_or_weights():
    layers = LayerRange(small=3, scenes=2)
    assert layers.resolve({"size": "small", "weights": "none"}) == Range(-3, 2)
    assert layers.resolve({"size": "small", "weights": "scenes"}) == Range(-2, 1)
    assert layers.resolve({"size": "small", "weights": "org/model"}) is None
    assert Annotated[int, Range(1, 2)].__metadata__[0].find_problem(True) is None
