"""Configs: every shipped file loads, flags override, and all mistakes are told at once."""

import pytest

from lumen.config.experiment import _read, dump, experiments, load, reload
from lumen.config.schema import SLOTS
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.registry import metrics

ROOT = "data.root=/nowhere"


@pytest.mark.parametrize("name", experiments())
@pytest.mark.parametrize("backbone", SLOTS["backbone"].names())
def test_every_experiment_takes_every_backbone_by_one_flag(name, backbone):
    config = load(name, [f"backbone={backbone}"], complete=False)
    assert config.backbone["name"] == backbone
    plain, changed = dump(load(name, [], complete=False)), dump(config)
    apart = {key for key in plain if plain[key] != changed[key]}
    assert apart <= {"backbone", "flags"}


def test_a_component_named_anew_drops_the_arguments_of_the_one_before():
    assert load("scenes", ["backbone=sd"]).backbone.get("patch") is None
    config = load("scenes", ["backbone.layer=2", "backbone=dinov2", "backbone.size=small"])
    assert (config.backbone["layer"], config.backbone["size"], config.backbone["weights"]) == (2, "small", "scenes")
    assert load("scenes", ["backbone=dino", "backbone.patch=16"]).backbone["patch"] == 16
    assert load("scenes", ["conditioning=canny"]).conditioning == {"name": "canny", "low": 100, "high": 200}
    assert load("scenes", ["conditioning=hed"]).conditioning["weights"] == "scenes"
    assert load("scenes", ["conditioning=neural_layout"]).conditioning["vectors"] == 8000


def test_all_mistakes_are_told_at_once():
    flags = ["lrr=3", "steps=abc", "batch=0", "backbone=dinov3", "data.image=4", "conditioning.components=x", "+a=1"]
    flags += ["sampling.sampler=euler", "prompt_dropout=2", "sampling.negative=${oc.env:HOME}", "lr.more=1"]
    with pytest.raises(BadConfig) as error:
        load("scenes", flags)
    told = str(error.value).splitlines()
    assert len(told) == len(flags)
    for words in (
        "no key 'lrr'; did you mean 'lr'?",
        "steps cannot be 'abc'",
        "batch must be more than 0, not 0",
        "no backbone is called 'dinov3'; did you mean 'dinov2'?",
        "no argument 'data.image'; did you mean 'images'?",
        "conditioning.components of conditioning 'neural_layout' must be int, not 'x'",
        "'+a=1' is no flag",
        "expected one of ['ddim', 'dpm']",
        "prompt_dropout must be between 0 and 1, not 2.0",
        "values are taken as they stand",
        "no key 'lr.more'",
    ):
        assert any(words in line for line in told), words


def test_an_argument_that_nothing_has_set_is_asked_for():
    with pytest.raises(BadConfig, match="data set 'coco_stuff' needs data.root="):
        load("coco_stuff")
    assert load("coco_stuff", complete=False).data["root"] is None
    assert load("coco_stuff", [ROOT]).data["root"] == "/nowhere"


def test_a_file_of_ones_own_is_an_experiment(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: {name: clip, facet: value}\nlr: 1e-4\n")
    config = load(str(path), [ROOT])
    assert (config.experiment, config.backbone["facet"], config.lr) == ("mine", "value", 1e-4)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [1", BadConfig),
        ("- 1", BadConfig),
        ("a: &x [*x]", BadConfig),
        ("lr: !!python/object/apply:os.system [ls]", BadConfig),
        ("lrr: 1", BadConfig),
        ("lr: fast", BadConfig),
        (None, UnknownName),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, error):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match="mine.yaml"):
        load(str(path), [ROOT])


def test_an_unknown_experiment_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"did you mean 'scenes'\?"):
        load("scene")


def test_base_sets_every_key_and_only_those():
    saved = dump(load("coco_stuff", [ROOT]))
    assert saved.keys() - {"experiment", "flags", "defaults"} == _read("base").keys()


def test_a_saved_config_comes_back_with_new_flags():
    config = load("scenes", ["backbone=dinov2", "lr=3e-4"])
    again = reload(dump(config), ["sampling.steps=7"])
    assert again.sampling.steps == 7 and again.flags == {"sampling.steps": 7}
    again.sampling.steps = config.sampling.steps
    before, after = dump(config), dump(again)
    assert all(before[key] == after[key] for key in before.keys() - {"experiment", "flags"})


def test_metrics_are_named_in_a_list_and_keep_the_arguments_of_the_experiment():
    config = load("scenes", ["metrics=[lpips,miou]", "metrics.lpips.trunk=vgg"])
    assert config.metrics == {"lpips": {"trunk": "vgg"}, "miou": {"segmenter": "scenes", "revision": None}}
    assert load("scenes", ["metrics.lpips.trunk=vgg", "metrics=[miou]"]).metrics.keys() == {"miou", "lpips"}
    assert reload(dump(load("scenes", ["metrics=[]"])), ["metrics=[miou]"]).metrics["miou"]["segmenter"] == "scenes"
    assert load("scenes", ["metrics=miou"]).metrics.keys() == {"miou"} and load("scenes", ["metrics=[]"]).metrics == {}
    assert reload(dump(config)).metrics == config.metrics and reload(dump(load("scenes", ["metrics=[]"]))).metrics == {}


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("metrics=[mIoU]", "no metric is called 'mIoU'; did you mean 'miou'?"),
        ("metrics=3", "metrics cannot be 3; write names"),
        (
            "metrics.miou.segmentor=x",
            "metric 'miou' has no argument 'metrics.miou.segmentor'; did you mean 'segmenter'",
        ),
        ("metrics.lpips.trunk=3", "metrics.lpips.trunk of metric 'lpips' must be str, not 3"),
        ("metrics.lpips=false", "metrics.lpips takes no value; write metrics=[lpips]"),
        ("measure.anchors=[reel]", "measure.anchors cannot be"),
    ],
)
def test_a_mistake_in_metrics_is_named(flag, says):
    with pytest.raises(BadConfig) as error:
        load("scenes", [flag])
    assert says in str(error.value)


def test_a_metric_without_an_evaluator_of_its_own_must_be_given_one(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: coco_stuff\n")
    with pytest.raises(BadConfig, match="metric 'miou' needs metrics.miou.segmenter="):
        load(str(tmp_path / "mine.yaml"), [ROOT, "metrics=[miou]"])


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_names_what_it_is_judged_by(name):
    flags = [] if name == "scenes" else [ROOT]
    config = load(name, [*flags, f"metrics=[{','.join(metrics.names())}]"])
    assert config.metrics["miou"]["segmenter"]
    assert name == "scenes" or not load(name, flags).metrics  # without being asked, nothing is fetched
