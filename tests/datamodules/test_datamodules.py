"""Promises of every data set, on the tiny tree that it writes for itself."""

import pickle
from types import SimpleNamespace

import pytest
import torch

from lumen.core.errors import BadCheckpoint, DatasetMissing
from lumen.core.interfaces import IGNORE, Batch
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule

NAMES = datamodules.names()
ON_DISK = [name for name in NAMES if "root" in datamodules.arguments(name)]


def attached(data: DataModule, rank: int = 0, world: int = 1, seen: int = 0) -> DataModule:
    """The data set as a trainer of several processes holds it, some micro-batches into the run."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=seen))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop)
    return data


def looks(loader) -> list[tuple]:
    """What a run sees, image by image."""
    return [
        (id, caption, image.numpy().tobytes(), mask.numpy().tobytes())
        for batch in (batch.to("cpu") for batch in loader)
        for id, caption, image, mask in zip(batch.id, batch.caption, batch.image, batch.mask, strict=True)
    ]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_gives_batches(name, size, build):
    data = build(name, loading={"size": size, "batch": 3, "batches": 2})
    loaders = data.train_dataloader(), data.val_dataloader(), data.sample_dataloader(4)
    for batch in [batch for loader in loaders for batch in loader]:
        assert isinstance(batch, Batch)
        assert batch.image.shape == (len(batch.id), 3, size, size) and batch.image.dtype == torch.float32
        assert batch.image.abs().max() <= 1 and batch.image.std() > 0.05
        assert batch.mask.shape == batch.image[:, 0].shape and batch.mask.dtype == torch.int64
        assert all(0 <= c < len(data.classes) for c in batch.mask.unique().tolist() if c != IGNORE)
        assert all(isinstance(caption, str) and caption for caption in batch.caption)
        assert all(len(values) == len(batch.id) for values in batch.extra.values())


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_unique_and_ids_lead_back_to_records(name, build):
    data = build(name)
    assert len(set(data.classes)) == len(data.classes)
    for split in ("train", "val"):
        ids = [record.id for record in data.records(split)]
        assert len(set(ids)) == len(ids) == len(data.dataset(split)) > 0
    assert not {r.id for r in data.records("train")} & {r.id for r in data.records("val")}


@pytest.mark.parametrize("name", NAMES)
def test_a_look_depends_on_image_and_epoch_alone(name, build):
    alone = looks(build(name, loading={"batch": 2, "batches": 6}).train_dataloader())
    together = looks(build(name, loading={"batch": 4, "batches": 3, "workers": 2}).train_dataloader())
    assert alone == together
    assert len({look[0] for look in alone[:6]}) == 6  # every image once before any comes again
    assert looks(build(name, loading={"seed": 1}).train_dataloader()) != alone


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_view_never_changes(name, build):
    data = build(name)
    first, again = data.dataset("train")[1], build(name).dataset("train")[1]
    assert torch.equal(first["image"], again["image"]) and torch.equal(first["mask"], again["mask"])
    assert first["image"].dtype == first["mask"].dtype == torch.uint8
    assert first["caption"] == again["caption"] == data.load(data.records("train")[1])["captions"][0]


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_see_what_one_sees(name, build):
    one = looks(build(name, loading={"batch": 4, "batches": 3}).train_dataloader())
    ranks = [looks(attached(build(name), rank, 2).train_dataloader()) for rank in (0, 1)]
    assert [ranks[i // 2 % 2][i // 4 * 2 + i % 2] for i in range(12)] == one


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_goes_on_where_it_was(name, build):
    whole = looks(build(name).train_dataloader())
    assert looks(attached(build(name), seen=4).train_dataloader()) == whole[8:]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_share_validation_without_padding(name, build):
    few = {"validation": 3}
    every = [look[0] for look in looks(build(name, loading=few).val_dataloader())]
    shares = [[look[0] for look in looks(attached(build(name, loading=few), r, 2).val_dataloader())] for r in (0, 1)]
    assert len(every) == 3 and [len(share) for share in shares] == [2, 1]
    assert sorted(shares[0] + shares[1]) == sorted(every)


def test_validation_images_are_spread_over_the_split(build, monkeypatch):
    data = build("coco_stuff", loading={"validation": 3})
    six = data.records("train")
    monkeypatch.setattr(data, "records", lambda split: six)
    assert [look[0] for look in looks(data.val_dataloader())] == [six[0].id, six[2].id, six[4].id]
    more = build("coco_stuff", loading={"validation": 99})
    assert [look[0] for look in looks(more.val_dataloader())] == [record.id for record in more.records("val")]


@pytest.mark.parametrize("name", NAMES)
def test_the_order_is_not_continued_with_another_batch_size(name, build):
    saved = build(name).train_dataloader().state_dict()
    build(name).train_dataloader().load_state_dict(saved)
    with pytest.raises(BadCheckpoint, match="batch was 2 and is 3"):
        build(name, loading={"batch": 3}).train_dataloader().load_state_dict(saved)


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_gets_the_readers_and_not_the_trainer(name, build):
    data = attached(build(name))
    data.trainer.strategy = lambda: None  # as unpicklable as a real one
    copy = pickle.loads(pickle.dumps(data.dataset("train")))
    assert torch.equal(copy[0, 5]["image"], data.dataset("train")[0, 5]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_the_tiny_tree_is_in_order(name, build):
    data = build(name)
    report = data.check()
    assert report.ok and report.problems == [] and report.notes == []
    assert report.counts["train"]["image"] == len(data.records("train"))
    assert report.hash == build(name).check().hash and len(report.hash) == 16
    assert report.name in str(report) and report.hash in str(report)


@pytest.mark.parametrize("name", ON_DISK)
def test_missing_data_is_one_sentence_with_the_next_step(name, build, tmp_path):
    data = build(name, root=tmp_path / "nowhere")
    with pytest.raises(DatasetMissing) as error:
        data.train_dataloader()
    assert str(tmp_path / "nowhere") in str(error.value) and "root=DIR" in str(error.value)
    assert not data.check().ok and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ON_DISK)
def test_hash_and_fingerprint_follow_the_content_and_not_the_place(name, build, tmp_path):
    before = build(name)
    before.fake(tmp_path / "copy")
    copy = build(name, root=tmp_path / "copy")
    assert copy.check().hash == before.check().hash and copy.fingerprint() == before.fingerprint()
    file = copy.records("train")[2].files["image"]
    file.write_bytes(file.read_bytes() + b"\0")
    copy = build(name, root=tmp_path / "copy")
    assert copy.check().hash != before.check().hash and copy.fingerprint() != before.fingerprint()


def test_the_scenes_are_identified_by_their_renderer(build, monkeypatch):
    import datamodules.scenes as module

    before, render = (build("scenes").fingerprint(), build("scenes").check().hash), module.render
    assert before[0] == build("scenes").fingerprint() != build("scenes", images=7).fingerprint()
    monkeypatch.setattr(module, "render", lambda seed, size: render(seed + 1, size))
    assert build("scenes").fingerprint() != before[0] and build("scenes").check().hash != before[1]


def test_scenes_bring_depth_instances_boxes_and_graph(build):
    batch = next(iter(build("scenes").val_dataloader()))
    assert {"depth", "disparity", "instance", "camera", "boxes_2d", "boxes_3d", "graph"} <= batch.extra.keys()
    depth, mask = batch.extra["depth"][0], batch.mask[0]
    assert depth.shape == mask.shape and torch.equal(depth.isinf(), mask == 0)
