"""Images in rows and archives: columns, label maps, damage, and the reading of the library."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lumen.core.errors import BadConfig, BadSample, DatasetMissing

CLASSES = ["road", "sky", "tree"]


def png(pixels) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def photo(i) -> bytes:
    return png(np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8))


def labels(i) -> bytes:
    return png(np.random.default_rng(i).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8))


@pytest.fixture
def parquet(tmp_path):
    """A folder with a parquet file of 30 rows: image, label map and two captions."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "rows").mkdir()
    columns = {
        "picture": [{"bytes": photo(i), "path": None} for i in range(30)],
        "seg": [{"bytes": labels(i), "path": None} for i in range(30)],
        "words": [[f"row {i}", "again"] for i in range(30)],
    }
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "rows/train.parquet")
    return tmp_path / "rows"


COLUMNS = {"image": "picture", "caption": "words", "labels": "seg", "classes": CLASSES}


def test_hf_rows_have_the_named_columns(parquet, build):
    data = build("hf", root=parquet, **COLUMNS)
    (record, *_), source = data.source.records("val"), data.source
    row = int(record.id.rpartition("-")[2])
    parts = source.read(record)
    assert (
        parts["captions"] == (f"row {row}", "again")
        and np.asarray(parts["image"]).tobytes() == Image.open(io.BytesIO(photo(row))).tobytes()
    )
    assert (np.asarray(parts["mask"]) == np.asarray(Image.open(io.BytesIO(labels(row))))).all()
    batch = next(iter(data.train_dataloader()))
    assert batch.mask.shape == (2, 32, 32) and source.has_labels and source.classes == tuple(CLASSES)
    assert source.check().ok and source.check().counts["val"]["captions"] == 2 * len(source.records("val"))
    plain = build("hf", root=parquet, image="picture").source
    assert not plain.has_labels and plain.read(record)["captions"] == () and plain.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"image": "pictur"}, DatasetMissing, "did you mean 'picture'"),
        ({"image": "picture", "split": "tran"}, DatasetMissing, "'tran'"),
        ({"root": "/nowhere/at/all"}, DatasetMissing, "data.source=/nowhere/at/all cannot be opened"),
        ({"labels": "seg"}, BadConfig, "data.classes"),
    ],
)
def test_hf_mistakes_are_one_sentence(arguments, error, words, parquet, build_source):
    with pytest.raises(error) as mistake:
        build_source("hf", **{"root": parquet} | arguments).records("train")
    assert words in str(mistake.value) and "\n" not in str(mistake.value)


def test_hf_rows_name_no_file_of_another_place(parquet, tmp_path, build_source):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "secret.png").write_bytes(photo(0))
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2
    datasets.Dataset.from_dict({"image": cells}).to_parquet(parquet / "train.parquet")
    source = build_source("hf", root=parquet)
    with pytest.raises(BadSample, match="no file of it"):
        source.read(source.records("train")[0])


@pytest.fixture
def shards(tmp_path):
    """A folder of two shards, one with label maps and captions in JSON."""
    for part in range(2):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as archive:
            for i in range(6):
                members = {"jpg": photo(i), "json": f'{{"caption": "image {i}"}}'.encode(), "seg.png": labels(i)}
                for end, content in members.items():
                    entry = tarfile.TarInfo(f"./deep.er/{i:03}.{end}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
    return tmp_path


def test_webdataset_reads_the_images_that_the_library_reads(shards, build_source):
    library = pytest.importorskip("webdataset")
    source = build_source("webdataset", root=shards, labels="seg.png", classes=CLASSES)
    samples = {}
    for part in range(2):
        for sample in library.WebDataset(str(shards / f"{part}.tar"), shardshuffle=False):
            samples[f"{part}.tar/{sample['__key__']}"] = sample
    records = [record for split in ("train", "val") for record in source.records(split)]
    assert {record.id for record in records} == samples.keys()
    for record in records:
        encoded, sample = source.load(record), samples[record.id]
        assert (encoded.image, encoded.mask) == (sample["jpg"], sample["seg.png"])
        assert source.read(record)["captions"] == (f"image {int(record.id[-3:])}",)
    paths = build_source("webdataset", root=f"{shards}/{{0..1}}.tar", labels="seg.png", classes=CLASSES)
    assert paths.fingerprint() == source.fingerprint() and source.check().ok


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("pipe:cat x.tar", "never run"),
        ("https://example.org/{0..9}.tar", "no local path"),
        ("none.tar", "none.tar does not exist"),
        ("{5..2}.tar", "range"),
        (".", "no .tar file"),
        ("notes.txt", "cannot be read as a tar archive"),
    ],
)
def test_webdataset_refuses_what_is_no_local_shard(place, words, workdir, build_source):
    (workdir / "notes.txt").write_text("no archive")
    with pytest.raises(DatasetMissing, match=words):
        build_source("webdataset", root=place).records("train")


def test_webdataset_names_a_shard_that_was_cut(shards, build_source):
    source = build_source("webdataset", root=shards)
    record = source.records("train")[-1]
    path = shards / record.id.partition("/")[0]
    path.write_bytes(path.read_bytes()[: source.index.images[record.id]["jpg"].offset + 5])
    with pytest.raises(BadSample, match="ends within a file"):
        source.read(record)
    assert any("ends within a file" in problem for problem in source.check().problems)
