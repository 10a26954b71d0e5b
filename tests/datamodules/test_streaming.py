"""Streams: the order is a function of position, ranks, workers and resumes change nothing, and faults are named."""

import gzip
import io
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, zip_longest
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lumen.config.experiment import load
from lumen.core.errors import BadCheckpoint, BadConfig, BadSample, DatasetMissing
from lumen.data import shard_reader
from lumen.data.datamodule import DataModule
from lumen.runs.evaluate import verify_splits

SIZES = (3, 5, 4, 7)  # images of each shard; the first is held out
STREAMED = {"streaming": True, "streams": 2, "buffer": 3}
NAMES = ["webdataset", "hf"]


def photo(i) -> bytes:
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture
def places(tmp_path):
    """A folder of tar archives and one of parquet files, with the same images."""
    datasets = pytest.importorskip("datasets")
    for folder in NAMES:
        (tmp_path / folder).mkdir()
    for part, size in enumerate(SIZES):
        with tarfile.open(tmp_path / f"webdataset/{part}.tar", "w") as archive:
            for i in range(size):
                for end, content in {"jpg": photo(10 * part + i), "txt": f"image {part} {i}".encode()}.items():
                    entry = tarfile.TarInfo(f"./deep.er/{i:03}.{end}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        rows = {
            "image": [{"bytes": photo(10 * part + i), "path": None} for i in range(size)],
            "text": [f"image {part} {i}" for i in range(size)],
        }
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"hf/train-{part}.parquet")
    return tmp_path


@pytest.fixture
def stream(places, build):
    """Return a function that builds a streamed data module by name."""
    return lambda name, loader=None, **arguments: build(
        name, **{"root": places / name, "loader": loader} | STREAMED | arguments
    )


def attach_trainer(data: DataModule, rank: int = 0, world_size: int = 1, processed: int = 0) -> DataModule:
    """Give a data module the trainer of one rank, which has processed some micro-batches."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=processed))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=loop)
    return data


def read_batches(loader) -> list[tuple]:
    """Return captions, ids and pixels of each batch."""
    batches = [batch.to("cpu") for batch in loader]
    assert all(len(values) == len(batch.id) for batch in batches for values in batch.extra.values())
    return [(batch.caption, batch.id, batch.image.numpy().tobytes()) for batch in batches]


@pytest.mark.parametrize("name", NAMES)
def test_stream_has_each_image_in_every_pass_of_a_sequence(name, stream):
    data = stream(name)
    images, held_out = data.source.stream, {record.id for record in data.source.records("val")}
    for sequence, shards in ((0, (1, 3)), (1, (2,))):
        size = sum(SIZES[shard] for shard in shards)
        items = list(islice(images.iterate(sequence), 2 * size))
        passes = [[id for id, _, _ in items[start : start + size]] for start in (0, size)]
        assert len(set(passes[0])) == size and sorted(passes[0]) == sorted(passes[1]) and passes[0] != passes[1]
        assert [epoch for _, _, epoch in items] == [0] * size + [1] * size and not held_out & {*passes[0]}
    assert images.shard_images == {1: 5, 2: 4, 3: 7} and len(held_out) == SIZES[0]
    validation = [captions for captions, _, _ in read_batches(data.val_dataloader())]
    assert validation == [["image 0 0", "image 0 1"], ["image 0 2"]]
    assert data.source.check().ok and data.source.check().counts["train"] == {"image": 16, "captions": 16}


@pytest.mark.parametrize("name", ["webdataset", pytest.param("hf", marks=pytest.mark.long)])
def test_stream_is_the_same_on_any_number_of_ranks_and_workers(name, stream):
    loader = {"num_batches": 12}
    batches = read_batches(stream(name, loader).train_dataloader())
    assert read_batches(stream(name, loader | {"workers": 2}).train_dataloader()) == batches
    ranks = [read_batches(attach_trainer(stream(name, {"num_batches": 6}), r, 2).train_dataloader()) for r in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == batches
    assert read_batches(stream(name, loader | {"seed": 1}).train_dataloader()) != batches
    for world in (1, 2, 4):
        ranks = [read_batches(attach_trainer(stream(name), r, world).sample_dataloader(5)) for r in range(world)]
        sample = [ids for batches_of_ranks in zip_longest(*ranks) for _, ids, _ in filter(None, batches_of_ranks)]
        assert [*map(len, sample)] == [2, 2, 1] and sum(sample, []) == sum((ids for _, ids, _ in batches), [])[:5]


@pytest.mark.parametrize("name", NAMES)
def test_stream_resumes_at_the_next_batch_without_reading_shards_again(name, stream, monkeypatch):
    data = stream(name, {"num_batches": 12})
    loader = data.train_dataloader()
    batches, state = read_batches(loader), loader.state_dict()
    resumed = attach_trainer(stream(name, {"num_batches": 12}), processed=9)
    loader, numbers = resumed.train_dataloader(), []
    loader.load_state_dict(state)
    read = resumed.source.stream.read_shard
    monkeypatch.setattr(resumed.source.stream, "read_shard", lambda number: numbers.append(number) or read(number))
    assert read_batches(loader) == batches[9:]
    assert len(numbers) == 2  # of the five that were begun: one per sequence
    with pytest.raises(BadCheckpoint, match="streamed batch was 2 and is 3"):
        stream(name, {"batch_size": 3}).train_dataloader().load_state_dict(state)
    with pytest.raises(BadCheckpoint, match="buffer was 3 and is 4"):
        stream(name, buffer=4).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_stream_has_no_list_of_its_training_images(name, stream, places):
    data = stream(name)
    for ask in (data.source.train_records, lambda: data.dataset("train"), lambda: data.num_images(None)):
        with pytest.raises(DatasetMissing, match="no list of its training images"):
            ask()
    assert data.num_images(99) == 99 and stream(name).source.fingerprint() == data.source.fingerprint()
    for flags in (["cache=always"], ["task=segmentation", "task.images=3"]):
        with pytest.raises(BadConfig, match=flags[-1].removesuffix("=3")):
            verify_splits(data, load("scenes", flags))
    for file in sorted((places / name).iterdir())[1:]:
        file.unlink()
    with pytest.raises(DatasetMissing, match="stream needs two"):
        stream(name).train_dataloader()


def test_hf_stream_holds_out_the_split_that_is_named(stream, places):
    (places / "hf/train-0.parquet").rename(places / "hf/validation-0.parquet")
    source = stream("hf", val_split="validation").source
    assert source.stream.training == [0, 1, 2] and {id[:10] for id in source.stream.held_out} == {"validation"}
    with pytest.raises(DatasetMissing, match="did you mean 'image'"):
        stream("hf", image="imag").source.records("val")


# ---- shards behind addresses


class Handler(SimpleHTTPRequestHandler):
    """Server that sends half of each file at first, and logs nothing."""

    halves: set[str] = set()

    def copyfile(self, source, outputfile):
        content = source.read()
        if self.path not in self.halves:
            self.halves.add(self.path)
            content = content[: len(content) // 2]
        outputfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def address(places):
    """Address of a local server of the shards."""
    Handler.halves.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(places / "webdataset")))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.long
def test_shards_behind_addresses_are_read_again_where_a_connection_breaks(stream, address, places, monkeypatch):
    monkeypatch.setattr(shard_reader, "WAITS_SECONDS", (0,))
    batches = read_batches(stream("webdataset").train_dataloader())
    assert read_batches(stream("webdataset", root=f"{address}/{{0..3}}.tar").train_dataloader()) == batches
    assert Handler.halves == {"/1.tar", "/2.tar", "/3.tar"}
    assert (
        read_batches(stream("webdataset", root=f"file://{places}/webdataset/{{0..3}}.tar").train_dataloader())
        == batches
    )
    with pytest.raises(BadSample, match=r"/9\.tar cannot be read beyond image 0 \(HTTP Error 404"):
        stream("webdataset", root=f"{address}/{{8..9}}.tar").train_dataloader().__iter__().__next__()


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("pipe:cat x.tar", DatasetMissing, "never run"),
        ("s3://bucket/{0..9}.tar", DatasetMissing, "no local path"),
        ("http://127.0.0.1:1/{0..9}.tar", BadSample, "0.tar cannot be read beyond image 0 .*refused"),
        ("file:///nowhere/{0..9}.tar", BadSample, "No such file"),
        ("none-{0..9}.tar", BadSample, "No such file"),
    ],
)
def test_shards_that_cannot_be_streamed_are_named(place, error, words, stream, monkeypatch):
    monkeypatch.setattr(shard_reader, "WAITS_SECONDS", ())
    with pytest.raises(error, match=words) as mistake:
        stream("webdataset", root=place).source.records("val")
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("streaming", [False, True])
def test_name_in_a_shard_that_is_no_utf8_is_named(stream, places, streaming):
    with tarfile.open(places / "webdataset/3.tar", "w") as archive:
        entry = tarfile.TarInfo("caf\udce9.png")
        entry.size = len(photo(0))
        archive.addfile(entry, io.BytesIO(photo(0)))
    with pytest.raises(BadSample, match=r"the name 'caf\\udce9\.png' in .*3\.tar is not encoded in UTF-8"):
        data = stream("webdataset", streaming=streaming)
        list(islice(data.source.stream.read_shard(3), 1)) if streaming else data.source.records("train")


def test_shards_of_one_name_are_refused(stream, places):
    data = stream("webdataset")
    data.source.shards.append(str(places / "webdataset/0.tar"))
    with pytest.raises(DatasetMissing, match=r"2 shards are called 0\.tar"):
        data.source.records("val")


def test_stream_names_a_shard_that_was_cut_and_one_without_images(stream, places):
    shard = places / "webdataset/2.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadSample, match=r"2\.tar cannot be read beyond image \d \(unexpected end of data\)"):
        read_batches(stream("webdataset").train_dataloader())
    assert [problem for problem in stream("webdataset").source.check().problems if "2.tar cannot" in problem]
    with tarfile.open(shard, "w") as archive:
        archive.addfile(tarfile.TarInfo("notes.md"))
    with pytest.raises(DatasetMissing, match=r"2\.tar is one, and none of them holds an image"):
        read_batches(stream("webdataset").train_dataloader())
    shard.write_bytes(gzip.compress(content))
    read_batches(stream("webdataset").train_dataloader())
