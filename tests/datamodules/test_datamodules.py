"""Promises of every data set, on the tiny tree that it writes for itself."""

import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lumen.core.errors import BadCheckpoint, DatasetMissing
from lumen.core.interfaces import Batch
from lumen.core.labels import IGNORE
from lumen.core.registry import datamodules
from lumen.data.datamodule import DataModule

NAMES = datamodules.names()
ON_DISK = [name for name in NAMES if "root" in datamodules.arguments(name)]


def attach_trainer(data: DataModule, rank: int = 0, world_size: int = 1, processed: int = 0) -> DataModule:
    """Give a data module the trainer of one rank, which has processed some micro-batches."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=processed))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop)
    return data


def read_samples(loader) -> list[tuple]:
    """Return everything that a loader yields, image by image."""
    return [
        (id, caption, image.numpy().tobytes(), None if batch.mask is None else batch.mask[i].numpy().tobytes())
        for batch in (batch.to("cpu") for batch in loader)
        for i, (id, caption, image) in enumerate(zip(batch.id, batch.caption, batch.image, strict=True))
    ]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", NAMES)
def test_batches_of_every_data_set(name, size, build):
    data = build(name, loader={"size": size, "batch_size": 3, "num_batches": 2})
    loaders = data.train_dataloader(), data.val_dataloader(), data.sample_dataloader(4)
    for batch in [batch for loader in loaders for batch in loader]:
        assert isinstance(batch, Batch)
        assert batch.image.shape == (len(batch.id), 3, size, size) and batch.image.dtype == torch.float32
        assert batch.image.abs().max() <= 1 and batch.image.std() > 0.05
        assert data.source.has_labels == bool(data.source.classes) == (batch.mask is not None)
        if data.source.has_labels:
            assert batch.mask.shape == batch.image[:, 0].shape and batch.mask.dtype == torch.int64
            assert all(0 <= c < len(data.source.classes) for c in batch.mask.unique().tolist() if c != IGNORE)
        assert all(isinstance(caption, str) and caption for caption in batch.caption)
        assert all(len(values) == len(batch.id) for values in batch.extra.values())


@pytest.mark.parametrize("name", NAMES)
def test_class_names_and_image_ids_are_unique(name, build):
    data = build(name)
    source = data.source
    assert len(set(source.classes)) == len(source.classes)
    for split in ("train", "val"):
        ids = [record.id for record in source.records(split)]
        assert len(set(ids)) == len(ids) == len(data.dataset(split)) > 0
    assert not {r.id for r in source.records("train")} & {r.id for r in source.records("val")}


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_depends_only_on_image_and_epoch(name, build):
    samples = read_samples(build(name, loader={"batch_size": 2, "num_batches": 6}).train_dataloader())
    loader = {"batch_size": 4, "num_batches": 3, "workers": 2}
    assert samples == read_samples(build(name, loader=loader).train_dataloader())
    assert len({sample[0] for sample in samples[:6]}) == 6  # every image before any image returns
    assert read_samples(build(name, loader={"seed": 1}).train_dataloader()) != samples


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_dataset_never_changes(name, build):
    data = build(name)
    first, second = data.dataset("train")[1], build(name).dataset("train")[1]
    for kind in ("image", "mask") if data.source.has_labels else ("image",):
        assert torch.equal(first[kind], second[kind]) and first[kind].dtype == torch.uint8
    captions = data.source.read(data.source.records("train")[1])["captions"]
    assert first["caption"] == second["caption"] == captions[0]


@pytest.mark.parametrize("name", NAMES)
def test_loader_yields_the_same_images_on_one_rank_and_two(name, build):
    single = read_samples(build(name, loader={"batch_size": 4, "num_batches": 3}).train_dataloader())
    ranks = [read_samples(attach_trainer(build(name), rank, 2).train_dataloader()) for rank in (0, 1)]
    assert [ranks[i // 2 % 2][i // 4 * 2 + i % 2] for i in range(12)] == single


@pytest.mark.parametrize("name", NAMES)
def test_loader_resumes_at_the_next_batch(name, build):
    samples = read_samples(build(name).train_dataloader())
    assert read_samples(attach_trainer(build(name), processed=4).train_dataloader()) == samples[8:]


@pytest.mark.parametrize("name", NAMES)
def test_validation_loader_shares_images_over_ranks_without_padding(name, build):
    loader = {"val_images": 3}
    ids = [sample[0] for sample in read_samples(build(name, loader=loader).val_dataloader())]
    ranks = [attach_trainer(build(name, loader=loader), rank, 2) for rank in (0, 1)]
    shares = [[sample[0] for sample in read_samples(data.val_dataloader())] for data in ranks]
    assert len(ids) == 3 and [len(share) for share in shares] == [2, 1]
    assert sorted(shares[0] + shares[1]) == sorted(ids)


def test_validation_images_are_spread_over_the_split(build, monkeypatch):
    data = build("coco_stuff", loader={"val_images": 3})
    records = data.source.records("train")
    monkeypatch.setattr(data.source, "records", lambda split: records)
    ids = [sample[0] for sample in read_samples(data.val_dataloader())]
    assert ids == [records[0].id, records[2].id, records[4].id]
    data = build("coco_stuff", loader={"val_images": 99})
    ids = [sample[0] for sample in read_samples(data.val_dataloader())]
    assert ids == [record.id for record in data.source.records("val")]


@pytest.mark.parametrize("name", NAMES)
def test_grid_batch_is_fixed(name, build):
    batches = [build(name, loader={"val_images": 6, "seed": seed}).grid_batch(3) for seed in (0, 1)]
    assert len(batches[0].id) == 3 and batches[0].id == batches[1].id
    assert torch.equal(batches[0].image, batches[1].image)


@pytest.mark.parametrize("name", NAMES)
def test_mismatched_batch_has_other_images_whatever_the_batch_size(name, build):
    def pairs(batch_size):
        data = build(name, loader={"batch_size": batch_size, "eval_images": 3})
        return {
            image_id: other_id
            for batch in data.test_dataloader()
            for image_id, other_id in zip(batch.id, data.mismatched_batch(batch).id, strict=True)
        }

    assert pairs(2) == pairs(3) and all(image_id != other_id for image_id, other_id in pairs(2).items())


@pytest.mark.parametrize("name", NAMES)
def test_loader_state_refuses_another_batch_size(name, build):
    state = build(name).train_dataloader().state_dict()
    build(name).train_dataloader().load_state_dict(state)
    with pytest.raises(BadCheckpoint, match="batch was 2 and is 3"):
        build(name, loader={"batch_size": 3}).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_dataset_is_pickled_without_the_trainer(name, build):
    data = attach_trainer(build(name))
    data.trainer.strategy = lambda: None  # cannot be pickled, like a real one
    copy = pickle.loads(pickle.dumps(data.dataset("train")))
    assert torch.equal(copy[0, 5]["image"], data.dataset("train")[0, 5]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_check_passes_for_fake_data(name, build_source):
    source = build_source(name)
    report = source.check()
    assert report.ok and report.problems == [] and report.notes == []
    assert report.counts["train"]["image"] == len(source.records("train"))
    assert report.hash == build_source(name).check().hash and len(report.hash) == 16
    assert report.name in str(report) and report.hash in str(report)


@pytest.mark.parametrize("name", ON_DISK)
def test_missing_data_set_names_directory_and_flag(name, build, tmp_path):
    data = build(name, root=tmp_path / "nowhere")
    with pytest.raises(DatasetMissing) as error:
        data.train_dataloader()
    assert str(tmp_path / "nowhere") in str(error.value) and "root=DIR" in str(error.value)
    assert not data.source.check().ok and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ON_DISK)
def test_data_sources_are_checked_without_torch(name):
    code = (
        "import sys; from lumen.__main__ import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'lightning'} & sys.modules.keys(); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "data", "check", name, "root=/missing"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "/missing" in result.stdout and not result.stderr


@pytest.mark.parametrize("name", ON_DISK)
def test_hash_and_fingerprint_depend_on_content_and_not_on_the_directory(name, build_source, tmp_path):
    original = build_source(name, root=tmp_path / "original")
    for directory in ("original", "copy"):
        original.fake(tmp_path / directory)
    copy = build_source(name, root=tmp_path / "copy")
    assert copy.check().hash == original.check().hash and copy.fingerprint() == original.fingerprint()
    file = copy.records("train")[2].files["image"]
    file.write_bytes(file.read_bytes() + b"\0")
    copy = build_source(name, root=tmp_path / "copy")
    assert copy.check().hash != original.check().hash and copy.fingerprint() != original.fingerprint()


def test_fingerprint_of_scenes_depends_on_the_renderer(build_source, monkeypatch):
    import datamodules.scenes as module

    original, render = (build_source("scenes").fingerprint(), build_source("scenes").check().hash), module.render
    assert original[0] == build_source("scenes").fingerprint() != build_source("scenes", images=7).fingerprint()
    monkeypatch.setattr(module, "render", lambda seed, size: render(seed + 1, size))
    assert build_source("scenes").fingerprint() != original[0] and build_source("scenes").check().hash != original[1]


def test_scenes_have_depth_instances_boxes_and_graph(build):
    batch = next(iter(build("scenes").val_dataloader()))
    assert {"depth", "disparity", "instance", "camera", "boxes_2d", "boxes_3d", "graph"} <= batch.extra.keys()
    depth, mask = batch.extra["depth"][0], batch.mask[0]
    assert depth.shape == mask.shape and torch.equal(depth.isinf(), mask == 0)
