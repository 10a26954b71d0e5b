"""Datasets: views are what training sees, and a cached dataset yields the same images and captions."""

import pytest
import torch

from lumen.core.registry import datamodules
from lumen.data.cache import CachedArray, CacheStore
from lumen.data.datamodule import DataModule
from lumen.data.source import LoaderConfig


def build(name, root, **loader):
    """Return a data module over fake data."""
    datamodules.factory(name).fake(root)
    places = {key: str(root) for key, argument in datamodules.arguments(name).items() if argument.required}
    arguments = {"images": 3} if name == "scenes" else places
    return DataModule(datamodules.build(name, **arguments, loader_config=LoaderConfig(size=32, seed=3, **loader)))


@pytest.fixture
def local_cache(request, tmp_path, monkeypatch):
    """Have the library datasets, where a test needs it, write into the directory of the test."""
    if request.getfixturevalue("name") == "hf":
        monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def are_equal(a, b):
    return a is b if a is None else torch.equal(a, b)


@pytest.mark.usefixtures("local_cache")
@pytest.mark.parametrize("name", datamodules.names())
def test_dataset_views_equal_the_samples_of_epochs(name, tmp_path):
    data = build(name, tmp_path / "data", views=2)
    dataset, views = data.dataset("train"), set()
    for index, epoch in [(i, e) for i in range(3) for e in range(4)]:
        sample = dataset[index, epoch]
        captions = data.source.read(dataset.records[index])["captions"]
        caption, view = dataset.choose_view(dataset.records[index], epoch, captions)
        views.add(view)
        assert torch.equal(sample["image"], dataset.read_view(index, view)["image"])
        assert are_equal(sample["mask"], dataset.read_view(index, view)["mask"])
        assert sample["caption"] == caption
    assert views == set(range(data.source.num_views()))


@pytest.mark.usefixtures("local_cache")
@pytest.mark.parametrize("name", datamodules.names())
@pytest.mark.parametrize("needs_images", [False, True])
def test_cached_dataset_yields_the_same_images_and_captions(name, needs_images, tmp_path):
    data = build(name, tmp_path / "data", views=2, batch_size=2, num_batches=6)
    expected = list(data.train_dataloader())
    views = [[(image, view) for image in range(len(data.dataset("train")))] for view in range(data.source.num_views())]
    store = CacheStore(tmp_path / "cache", "images", {})
    for view, positions in enumerate(views):
        [batch] = data.views_dataloader(positions, len(positions))
        store.write(str(view), batch.image.numpy(), {"captions": batch.extra["captions"]})
    arrays = {"image": CachedArray(store, [[str(view)] for view in range(len(views))])}
    data.cached_dataset = data.from_cache(arrays, needs_images)
    for batch, uncached in zip(data.train_dataloader(), expected, strict=True):
        assert (batch.id, batch.caption) == (uncached.id, uncached.caption)
        assert torch.equal(batch.cached["image"], uncached.image)
        assert torch.equal(batch.image, uncached.image) if needs_images else batch.image is None


def test_cache_key_of_random_crops_depends_on_image_ids(tmp_path):
    keys = []
    for city in ("aachen", "bremen"):
        root = tmp_path / city
        datamodules.factory("cityscapes").fake(root)
        for path in [*root.rglob("aachen_*")]:
            path.rename(path.with_name(path.name.replace("aachen", city)))
        captions = root / "captions.json"
        captions.write_text(captions.read_text().replace('"aachen', f'"{city}'))
        loader_config = LoaderConfig(size=32, views=2)
        keys.append(datamodules.build("cityscapes", root=str(root), loader_config=loader_config).cache_key())
    assert keys[0] != keys[1] and keys[0]["ids"] != keys[1]["ids"]
