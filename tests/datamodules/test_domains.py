"""Domains of images: their names, captions that move into them, skies of scenes, and data sets that no run has seen."""

import pytest

from lumen.__main__ import main
from lumen.config.experiment import dump, load
from lumen.config.identity import config_digest, run_name
from lumen.core.errors import BadConfig, UnknownName
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule
from lumen.data.domains import group_domains
from lumen.data.source import LoaderConfig
from lumen.scenes import render
from lumen.scenes.captions import SKY_PHRASES
from lumen.scenes.world import SKIES, sample_world

NAMES = datamodules.names()
DAY, NIGHT = ["clear", "overcast"], ["sunset", "night", "fog", "snow"]


def build_scenes(skies=None, unseen=None, **loader):
    """Return a data module of scenes of some skies, evaluated on those of others as well."""
    loader_config = LoaderConfig(**({"size": 32, "batch_size": 3, "eval_images": 7, "val_images": 5} | loader))
    build = lambda skies: datamodules.build("scenes", images=9, skies=skies, loader_config=loader_config)  # noqa: E731
    return DataModule(build(skies), unseen and build(unseen))


def skies_of(batches) -> list[str]:
    """Return the skies of the images of batches, as the renderer knows them by the ids."""
    return [sample_world(int(id.removeprefix("scene-"))).sky for batch in batches for id in batch.id]


@pytest.mark.parametrize("name", NAMES)
def test_images_bring_their_domain(name, build):
    data = build(name)
    expected = {record.id: data.source.domain(record) for record in data.source.records("train")}
    for batch in data.train_dataloader():
        assert batch.extra["domain"] == [expected[id] for id in batch.id]
    if name == "scenes":
        assert expected == {id: sample_world(int(id.removeprefix("scene-"))).sky for id in expected}
    else:
        assert set(expected.values()) == ({"fog", "night", "rain", "snow"} if name == "acdc" else {name})


@pytest.mark.parametrize("name", NAMES)
def test_caption_of_an_image_moves_into_each_domain(name, build_source):
    source = build_source(name)
    record = source.records("train")[0]
    captions = {domain: source.caption_for(record, domain) for domain in source.domains}
    assert len(set(captions.values())) == len(captions) and bool(captions) == (name in ("scenes", "cityscapes"))
    with pytest.raises(UnknownName, match=f"{name} has no captions for a domain 'nihgt'.*Available"):
        source.caption_for(record, "nihgt")


def test_caption_of_cityscapes_ends_in_the_phrase_of_the_domain(build_source):
    source = build_source("cityscapes")
    caption = source.caption_for(source.records("train")[0], "night")
    assert caption == "a street in aachen, frame 0, night scene"


def test_caption_of_a_scene_differs_in_the_words_of_its_sky_alone(build_source):
    source = build_source("scenes")
    for record in source.records("train"):
        own, sky = source.read(record)["captions"][0], source.domain(record)
        assert source.caption_for(record, sky) == own
        for other in SKIES:
            assert source.caption_for(record, other) == own.replace(SKY_PHRASES[sky][0], SKY_PHRASES[other][0])


def test_skies_hold_in_every_batch_of_every_split():
    data = build_scenes(DAY, num_batches=6)
    views = [(image, 0) for image in range(9)]
    loaders = [data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.sample_dataloader(9)]
    batches = [batch for loader in [*loaders, data.views_dataloader(views, 4)] for batch in loader]
    assert set(skies_of([*batches, data.grid_batch(5)])) == set(DAY)
    assert [len(data.source.records(split)) for split in ("train", "val", "test")] == [9, 5, 7]
    everything = [record.id for record in build_scenes(val_images=30).source.records("val")]
    chosen = [id for id in everything if sample_world(int(id.removeprefix("scene-"))).sky in DAY]
    assert [record.id for record in data.source.records("val")] == chosen[:5]  # the first of the split


@pytest.mark.long
def test_run_on_some_skies_renders_no_other_before_it_is_scored(workdir, monkeypatch):
    """Training, validation, cache and PCA basis; every scene is rendered in this process."""
    import datamodules.scenes as module
    from lumen.evaluation.loop import EvaluationLoop

    rendered, scored = [], []
    monkeypatch.setattr(module, "render", lambda seed, size: (rendered.append(seed), render(seed, size))[1])
    start = EvaluationLoop.on_test_epoch_start
    monkeypatch.setattr(EvaluationLoop, "on_test_epoch_start", lambda self: (scored.append(len(rendered)), start(self)))
    flags = ["size=32", "diffusion.weights=none", "batch=2", "data.images=8", "conditioning.vectors=60", "steps=2"]
    flags += ["validation=4", "workers=0", "warmup=1", "metrics=[miou]", "measure.images=3", "sampling.steps=2"]
    flags += ["sampling.images=1", "measure.anchors=[]", "cache=always", "wandb=disabled", "accelerator=cpu"]
    assert main(["train", "scenes", *flags, "data.skies=[clear,overcast]"]) == 0
    skies = {sample_world(seed).sky for seed in rendered[: scored[0]]} - {sample_world(0).sky}  # scene 0: fingerprint
    assert scored and len(set(rendered[: scored[0]])) >= 12 and skies <= set(DAY)


def test_all_skies_are_the_same_data_set_as_before(workdir):
    plain, named = load("scenes"), load("scenes", ["data.skies=[clear,overcast]"])
    old = dump(plain)
    del old["data"]["skies"]  # a config.yaml of an earlier release
    assert config_digest(old) == config_digest(dump(plain)) and run_name(dump(plain)) == "default"
    assert config_digest(dump(named)) != config_digest(old) and "skies" in run_name(dump(named))
    sources = [build_scenes(skies).source for skies in (None, DAY, DAY[::-1], NIGHT)]
    prints = [source.fingerprint() for source in sources]
    assert prints[0] != prints[1] == prints[2] != prints[3]
    contents = [source.hash_contents(source.records("train"), workdir) for source in sources[:2]]
    assert set(contents[0]) & set(contents[1])  # a scene has one cache entry, whatever the data set around it


@pytest.mark.parametrize("skies", ["[rain]", "[]", "night,rain"])
def test_skies_that_do_not_exist_are_refused(skies, workdir, capsys):
    assert main(["train", "scenes", f"data.skies={skies}", "diffusion.weights=none"]) == 2
    message = capsys.readouterr().err
    assert (
        "data.skies" in message and "overcast" in message and message.count("\n") == 1 and not list(workdir.iterdir())
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_unseen_images_follow_in_batches_of_their_own(world_size):
    from types import SimpleNamespace

    data, ids = build_scenes(DAY, NIGHT), []
    expected = [record.id for source in (data.source, data.unseen) for record in source.eval_records()]
    for rank in range(world_size):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        for batch in data.test_dataloader():
            assert len({sky in DAY for sky in batch.extra["domain"]}) == 1 and len(batch.id) <= 3
            others = data.mismatched_batch(batch)
            assert all(a != b for a, b in zip(batch.id, others.id, strict=True))
            assert {sky in DAY for sky in others.extra["domain"]} == {sky in DAY for sky in batch.extra["domain"]}
            ids += batch.id
    assert sorted(ids) == sorted(expected) and len(set(ids)) == 14
    batches = [*data.sample_dataloader(9), data.grid_batch(5), *data.val_dataloader()]
    assert set(skies_of(batches)) <= set(DAY)


def test_unseen_images_form_a_group_for_each_domain_and_their_mean():
    data = build_scenes(DAY, NIGHT, eval_images=24)
    groups = {group.title: group.groups for group in group_domains(data.source, data.unseen)}
    single = {sky: ((sky,),) for sky in sorted(NIGHT)}
    assert groups == {"": (("clear", "overcast"),), **single, "mean": tuple((sky,) for sky in sorted(NIGHT))}
    assert [group.title for group in group_domains(data.source, build_scenes(["fog"]).source)] == ["", "fog"]
    with pytest.raises(BadConfig, match="'clear', which scenes has too"):
        group_domains(data.source, build_scenes(["clear", "fog"], eval_images=24).source)


def test_unseen_data_set_must_have_the_same_classes(build_source):
    acdc = build_source("acdc")
    assert DataModule(build_source("cityscapes"), acdc).unseen is acdc
    with pytest.raises(BadConfig, match="acdc has 19 classes, such as 'road', and scenes has 11"):
        DataModule(build_source("scenes"), acdc)
