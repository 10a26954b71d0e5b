"""Experiments: every shipped file loads, overrides apply, and all mistakes are reported at once."""

import pytest
import yaml

from lumen.config.experiment import dump, list_experiments, load, reload
from lumen.config.files import read_experiment
from lumen.config.identity import config_digest, flatten
from lumen.config.schema import LATER_KEYS, SLOTS
from lumen.core.errors import BadConfig, BadFile, UnknownName
from lumen.core.plugins import Plugin
from lumen.core.registry import datamodules, metrics, tasks

ROOT = "data.root=/nowhere"

COLOURS = '''"""Colours of an image."""


@tasks.register
class Colours(Task):
    predicts = "colours"
    metrics = ("lpips", "miou")
    reference_rows = {"real": "real images", "grey": "grey images"}

    def __init__(self, bins: int = 8, *, seed: int = 0):
        super().__init__()
'''


@pytest.fixture
def colours(tmp_path, monkeypatch) -> str:
    """A task of another package, with metrics and reference rows of its own."""
    (tmp_path / "colours.py").write_text(COLOURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(vars(tasks), "_plugins", {"colours": Plugin("colours", "colours", "acme 1.0")})
    return "colours"


@pytest.mark.parametrize("name", list_experiments())
@pytest.mark.parametrize("backbone", SLOTS["backbone"].names())
def test_experiment_takes_every_backbone_by_one_override(name, backbone):
    config = load(name, [f"backbone={backbone}"], complete=False)
    assert config.backbone["name"] == backbone
    before, after = dump(load(name, [], complete=False)), dump(config)
    assert {key for key in before if before[key] != after[key]} <= {"backbone", "flags"}


def test_component_that_is_replaced_loses_its_arguments():
    assert load("scenes", ["backbone=sd"]).backbone.get("patch") is None
    config = load("scenes", ["backbone.layer=2", "backbone=dinov2", "backbone.size=small"])
    assert (config.backbone["layer"], config.backbone["size"], config.backbone["weights"]) == (2, "small", "scenes")
    assert load("scenes", ["backbone=dino", "backbone.patch=16"]).backbone["patch"] == 16
    assert load("scenes", ["conditioning=canny"]).conditioning == {"name": "canny", "low": 100, "high": 200}
    assert load("scenes", ["conditioning=hed"]).conditioning["weights"] == "scenes"
    assert load("scenes", ["conditioning=neural_layout"]).conditioning["vectors"] == 8000


def test_config_mistakes_are_all_reported_at_once():
    overrides = ["lrr=3", "steps=abc", "batch=0", "backbone=dinov4", "data.image=4", "conditioning.components=x"]
    overrides += ["+a=1", "sampling.sampler=euler", "prompt_dropout=2", "sampling.negative=${oc.env:HOME}", "lr.more=1"]
    with pytest.raises(BadConfig) as error:
        load("scenes", overrides)
    messages = str(error.value).splitlines()
    assert len(messages) == len(overrides)
    for words in (
        "no key 'lrr'; did you mean 'lr'?",
        "steps cannot be 'abc'",
        "batch must be between 1 and 100,000, not 0",
        "no backbone is called 'dinov4'; did you mean 'dinov2'?",
        "no argument 'data.image'; did you mean 'images'?",
        "conditioning.components of conditioning 'neural_layout' must be a whole number, not 'x'",
        "'+a=1' is no override",
        "sampling.sampler cannot be 'euler'; it must be ddim or dpm.",
        "prompt_dropout must be between 0 and 1, not 2.0",
        "${oc.env:HOME}",
        "no key 'lr.more'",
    ):
        assert any(words in message for message in messages), words


def test_config_names_a_required_argument_that_nothing_sets():
    with pytest.raises(BadConfig, match="data set 'coco_stuff' needs data.root="):
        load("coco_stuff")
    assert load("coco_stuff", complete=False).data["root"] is None
    assert load("coco_stuff", [ROOT]).data["root"] == "/nowhere"


def test_experiment_may_be_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: {name: clip, facet: value}\nlr: 1e-4\n")
    config = load(str(path), [ROOT])
    assert (config.experiment, config.backbone["facet"], config.lr) == ("mine", "value", 1e-4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [1", BadFile),
        ("- 1", BadFile),
        ("a: &x [*x]", BadFile),
        ("lr: !!python/object/apply:os.system [ls]", BadFile),
        ("lr: 1\nlr: 2", BadFile),
        ("'\x1b': 1", BadFile),
        ("lrr: 1", BadConfig),
        ("lr: fast", BadConfig),
        (None, UnknownName),
    ],
)
def test_experiment_file_with_a_mistake_is_named(tmp_path, text, error):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match="mine.yaml"):
        load(str(path), [ROOT])


def test_experiment_suggests_the_nearest_name():
    with pytest.raises(UnknownName, match=r"did you mean 'scenes'\?"):
        load("scene")


def test_base_experiment_sets_every_key_and_only_those():
    base = read_experiment("base")
    assert dump(load("coco_stuff", [ROOT])).keys() - {"experiment", "flags", "defaults"} == base.keys()
    owners = {"data.skies": ("scenes", "skies"), "data.fit": ("cityscapes", "fit")}
    owners |= {f"data.{key}": ("webdataset", key) for key in ("streaming", "streams", "buffer")}
    arguments = {key: datamodules.arguments(name)[argument].default for key, (name, argument) in owners.items()}
    assert all((flatten(base) | arguments)[key.removesuffix(".name")] == value for key, value in LATER_KEYS.items())


def test_config_is_reloaded_with_new_overrides():
    config = load("scenes", ["backbone=dinov2", "lr=3e-4"])
    changed = reload(dump(config), ["sampling.steps=7"])
    assert changed.sampling.steps == 7 and changed.flags == {"sampling.steps": 7}
    changed.sampling.steps = config.sampling.steps
    before, after = dump(config), dump(changed)
    assert all(before[key] == after[key] for key in before.keys() - {"experiment", "flags"})


def test_config_of_an_older_release_is_reloaded_with_defaults():
    saved = dump(load("scenes"))
    older = {key: value for key, value in saved.items() if key not in ("task", "generator")}
    older["backbone"] = {key: value for key, value in saved["backbone"].items() if key != "layer"}
    reloaded = dump(reload(older))
    assert all(reloaded[key] == saved[key] for key in saved.keys() - {"flags"})


def test_metrics_keep_the_arguments_of_the_experiment():
    config = load("scenes", ["metrics=[lpips,miou]", "metrics.lpips.trunk=vgg"])
    assert config.metrics == {"lpips": {"trunk": "vgg"}, "miou": {"segmenter": "scenes", "revision": None}}
    assert load("scenes", ["metrics.lpips.trunk=vgg", "metrics=[miou]"]).metrics.keys() == {"miou", "lpips"}
    assert reload(dump(load("scenes", ["metrics=[]"])), ["metrics=[miou]"]).metrics["miou"]["segmenter"] == "scenes"
    assert load("scenes", ["metrics=miou"]).metrics.keys() == {"miou"} and load("scenes", ["metrics=[]"]).metrics == {}
    assert reload(dump(config)).metrics == config.metrics and reload(dump(load("scenes", ["metrics=[]"]))).metrics == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("metrics=[mIoU]", "no metric is called 'mIoU'; did you mean 'miou'?"),
        ("metrics=3", "no metric is called '3'"),
        ("metrics=[miou", "metrics cannot be '[miou'"),
        ("metrics={", "metrics cannot be '{'"),
        (
            "metrics.miou.segmentor=x",
            "metric 'miou' has no argument 'metrics.miou.segmentor'; did you mean 'segmenter'",
        ),
        ("metrics.lpips.trunk=", "metrics.lpips.trunk of metric 'lpips' cannot be ''"),
        ("metrics.lpips=false", "write metrics=[lpips]"),
        ("measure.anchors=[reel]", "task 'layout_to_image' has no row 'reel'; did you mean 'real'?"),
        ("measure.anchors=7", "has no row '7'"),
        ("measure.anchors=[real", "measure.anchors cannot be '[real'"),
        ("task=layout_to_imag", "no task is called 'layout_to_imag'; did you mean 'layout_to_image'?"),
        ("generator=controlnets", "no generator is called 'controlnets'; did you mean 'controlnet'?"),
    ],
)
def test_metrics_and_tasks_with_a_mistake_are_named(override, words):
    with pytest.raises(BadConfig) as error:
        load("scenes", [override])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_metric_asks_for_a_network_that_nothing_names(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: coco_stuff\n")
    with pytest.raises(BadConfig, match="metric 'miou' needs metrics.miou.segmenter="):
        load(str(tmp_path / "mine.yaml"), [ROOT, "metrics=[miou]"])


@pytest.mark.parametrize("name", list_experiments())
def test_experiment_names_the_networks_of_all_metrics(name):
    overrides = [] if name == "scenes" else [ROOT]
    config = load(name, [*overrides, f"metrics=[{','.join(metrics.names())}]"])
    assert config.metrics["miou"]["segmenter"]
    assert name == "scenes" or not load(name, overrides).metrics  # without an override, nothing is downloaded


def test_task_brings_its_own_metrics_and_reference_rows(colours):
    config = load("scenes", [f"task={colours}", "task.bins=4"])
    assert config.task == {"name": colours, "bins": 4} and config.measure.anchors == ["real"]
    assert config.metrics == {"lpips": {"trunk": "scenes"}, "miou": {"segmenter": "scenes", "revision": None}}
    assert load("scenes", [f"task={colours}", "metrics=[kid]"]).metrics.keys() == {"kid"}
    assert load("scenes", [f"task={colours}", "metrics.kid.resize=clean"]).metrics.keys() == {"lpips", "miou", "kid"}
    assert load("scenes", [f"task={colours}", "measure.anchors=[grey,real]"]).measure.anchors == ["grey", "real"]
    with pytest.raises(BadConfig, match="task 'colours' has no row 'gray'; did you mean 'grey'"):
        load("scenes", [f"task={colours}", "measure.anchors=[gray]"])


def test_task_metrics_do_not_replace_those_of_a_file_that_names_the_task(colours, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: {colours}\ndata: scenes\nmetrics: [tifa]\ndefaults: {{metrics: {{vqa: scenes}}}}\n")
    assert load(str(path)).metrics.keys() == {"tifa"}
    assert reload(dump(load("scenes", [f"task={colours}", "metrics=[kid]"]))).metrics.keys() == {"kid"}
    path.write_text(f"task: {colours}\ndata: scenes\ndefaults: {{metrics: {{segmenter: scenes}}}}\n")
    assert load(str(path)).metrics.keys() == {"lpips", "miou"}


def test_experiment_with_an_unknown_reference_row_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: scenes\nmeasure: {anchors: [real, vea]}\n")
    with pytest.raises(BadConfig, match="'vea'.*did you mean 'vae'"):
        load(str(path))


TEXT_KEYS = ["sampling.negative", "diffusion.revision", "project", "data.root", "backbone.prompt"]
TEXT_KEYS += [
    "metrics.lpips.trunk",
    "measure.questions",
    "conditioning.basis",
    "data.captions",
    "runs",
    "diffusion.weights",
]


@pytest.mark.parametrize("text", ["no", "4e10582", "0123", "*b*", "[a] b", "{a b", "/a #b"])
def test_config_takes_text_as_typed(text):
    config = load("coco_stuff", [*(f"{key}={text}" for key in TEXT_KEYS)])
    tree = dump(config)
    assert all(tree["flags"][key] == text for key in TEXT_KEYS)
    for key in TEXT_KEYS:
        value = tree
        for part in key.split("."):
            value = value[part]
        assert value == text, key
    assert dump(reload(yaml.safe_load(yaml.safe_dump(tree)), ["sampling.steps=3"]))["data"]["root"] == text


def test_config_takes_short_forms_of_keys_and_records_them_as_typed():
    config = load("scenes", ["wandb=offline", "project=010"])
    assert (config.wandb.mode, config.project, config.flags) == (
        "offline", "010", {"wandb": "offline", "project": "010"}
    )  # fmt: skip
    old = {key: value for key, value in dump(config).items() if key != "logger"} | {"wandb": "disabled", "project": "x"}
    again = reload(old)
    assert (again.wandb.mode, again.project, again.logger) == ("disabled", "x", ["wandb"])
    assert config_digest(dump(again)) == config_digest(dump(config)) == config_digest(old)
    assert load("scenes", ["wandb.project=010"]).project == "010"
    with pytest.raises(BadConfig, match="wandb.mode"):
        load("scenes", ["wandb=on"])


def test_config_file_takes_text_as_the_command_line_does(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: {name: coco_stuff, root: /a}\nsampling: {negative: no}\ndiffusion: {revision: 4e10582}\n"
        "project: 2024_01_15\nbatch: 010\nlr: '1e-4'\ncompile: on\nmetrics: [lpips, kid]\n"
        "defaults: {metrics: {trunk: 010, network: no}, backbone: {revision: 12e3, layers: [2, 5]}}\n"
    )
    config = load(str(path))
    assert (config.sampling.negative, config.diffusion.revision, config.project) == (
        "no",
        "4e10582",
        "2024_01_15",
    )
    assert (config.batch, config.lr, config.compile) == (10, 1e-4, True)
    assert (config.backbone["revision"], config.backbone["layers"]) == ("12e3", [2, 5])
    assert (config.metrics["lpips"]["trunk"], config.metrics["kid"]["network"]) == ("010", "no")
    other = reload(yaml.safe_load(yaml.safe_dump(dump(config))), ["backbone=dino"])
    assert other.backbone["revision"] == "12e3"
    assert reload(dump(other), ["backbone=sd"]).backbone["layers"] == [2, 5]


def test_config_has_one_syntax_of_lists():
    for row in ("[real,vae]", "[real, vae]", "['real', \"vae\"]"):
        assert load("scenes", [f"measure.anchors={row}"]).measure.anchors == ["real", "vae"]
    assert load("scenes", ["backbone=sd", "backbone.layers=[2,5]"]).backbone["layers"] == [2, 5]
    assert load("scenes", ["measure.anchors=real"]).measure.anchors == ["real"]
    for flags in (["metrics=miou,lpips"], ["measure.anchors=real,vae"], ["backbone=sd", "backbone.layers=2,5"]):
        with pytest.raises(BadConfig, match=flags[-1].partition("=")[0]):
            load("scenes", flags)


def test_config_groups_are_set_together():
    config = load(
        "scenes", ["sampling={steps: 3, negative: no}", "backbone={name: dino, patch: 8}", "metrics={kid: {}}"]
    )
    assert (config.sampling.steps, config.sampling.negative, config.backbone["patch"]) == (3, "no", 8)
    assert "kid" in config.metrics and config.flags["sampling.steps"] == 3


@pytest.mark.parametrize(("text", "words"), [("${X}/y", "nothing replaces ${X}"), ("\x1b[31m", "U+001B")])
def test_config_refuses_text_of_every_key_by_one_rule(text, words):
    with pytest.raises(BadConfig) as error:
        load("coco_stuff", [f"{key}={text}" for key in TEXT_KEYS])
    messages = str(error.value).splitlines()
    assert len(messages) == len(TEXT_KEYS) and all(words in message for message in messages)
    assert all(any(key in message for message in messages) for key in TEXT_KEYS) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.root=", "it is empty"),
        ("runs=", "it is empty"),
        ("project=???", "missing"),
        ("backbone.size=${X}", "nothing replaces ${X}"),
        ("metrics.miou.segmenter=${oc.env:X}", "nothing replaces ${oc.env:X}"),
        ("measure.anchors=[${X}]", "${X}"),
        ("defaults.backbone.absent=${X}", "nothing replaces ${X}"),
        ("lr=", "lr cannot be ''"),
        ("lr=[1,", "lr cannot be '[1,'"),
        ("lr=&a[*a]", "lr cannot be"),
        ("steps=???", "steps cannot be '???'"),
        ("steps=12:30", "steps cannot be '12:30'"),
        ("batch=1.5", "batch cannot be 1.5"),
        ("compile=maybe", "compile cannot be 'maybe'"),
        ("seed=", "seed cannot be ''"),
        ("every={log", "every cannot be '{log'"),
        ("backbone.layers=[2,5", "must be a list of whole numbers"),
    ],
)
def test_config_refuses_text_in_one_sentence(override, words):
    with pytest.raises(BadConfig) as error:
        load("coco_stuff", [*([] if override.startswith("data.root") else [ROOT]), override])
    assert words in str(error.value) and "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_config_may_be_none_or_empty():
    config = load("scenes", ["diffusion.revision=null", "diffusion.vae=", "sampling.negative=", "views=null"])
    assert (config.diffusion.revision, config.diffusion.vae, config.sampling.negative) == (None, None, "")
    assert load("scenes", ["diffusion.revision='null'"]).diffusion.revision == "null"
    assert load("scenes", ["sampling.negative=null"]).sampling.negative == "null"


def test_config_defaults_may_be_set_on_the_command_line():
    config = load("scenes", ["defaults.backbone.layer=2", "backbone=dinov2"])
    assert config.backbone["layer"] == 2 and config.flags["defaults.backbone.layer"] == "2"
    assert reload(yaml.safe_load(yaml.safe_dump(dump(config))), ["backbone=dino"]).backbone["layer"] == 2


@pytest.mark.parametrize(
    ("flags", "words"), [(["task=segmentation"], "does not predict images alone"), (["metrics=[]"], "without metrics")]
)
def test_samples_that_an_evaluation_would_not_generate_cannot_be_saved(flags, words):
    with pytest.raises(BadConfig, match=words):
        load("scenes", [*flags, "measure.save_samples=true"])
    assert load("scenes", ["measure.save_samples=true"]).measure.save_samples
