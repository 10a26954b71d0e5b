"""Generated training images of a run as files: a data set in the official layout, with the labels of the originals."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from lumen.config.identity import is_evaluation_key
from lumen.config.schema import EVALUATION_KEYS, Config
from lumen.core.console import announce
from lumen.core.errors import BadConfig, Mistake
from lumen.core.files import DRAFTS, atomic_path, write, write_json
from lumen.core.hashing import hash_json
from lumen.core.locks import lock_directory
from lumen.core.progress import Phase, format_duration
from lumen.core.readers import read_json
from lumen.core.visualize import save_png
from lumen.data.cache import format_bytes
from lumen.data.copies import Files
from lumen.data.datamodule import DataModule
from lumen.data.index import ImageRecord
from lumen.data.loader import collate
from lumen.runs.data import build_data
from lumen.runs.directory import is_finished
from lumen.runs.sample import load_task
from lumen.runs.synthesis import component_arguments, read_prompts
from lumen.training.synthetic_images import SyntheticImages

SETTINGS_NAME = "synthesis.json"  # in the directory: what its images depend on
LOCK_NAME = ".synthesis.lock"


@dataclass(frozen=True)
class Copy:
    """Image of a generated data set.

    Attributes:
        name: Name of the copy, which no other image of the data set has.
        set_name: Key in `SyntheticImages.sets`.
    """

    record: ImageRecord
    name: str
    set_name: str


def synthesize(run: Path, config: Config, out: Path, domains: list[str], copies: int, count: int | None) -> int:
    """Write the training images of a run's data set as the run generates them, and return their number.

    What an interrupted command has written is verified and kept.

    Args:
        domains: Domains into which prompts move the images; none means that images keep their own captions.
        copies: Generated images for each training image and domain.
        count: Training images; None for all.

    Raises:
        BadConfig: The run generates no images of whole training images, or a setting was decided by its training.
        Mistake: The directory holds something else.
    """
    data = build_data(config)
    _verify(run, config, data, domains)
    task = load_task(run, config)
    if task.output_kind != "images":
        raise BadConfig(f"{run} is of the task '{config.task['name']}'; name a run that generates images.")
    if domains and not task.is_prompted:
        raise BadConfig(f"{run} follows no prompt, which domains= needs; leave domains= out.")
    sampling = {key: value for key, value in asdict(config.sampling).items() if key != "images"}
    prompts = {domain: read_prompts(data, domain) for domain in domains or [None]}
    arguments = component_arguments(config)
    images = SyntheticImages(task, prompts, copies, sampling=sampling, arguments=arguments, seed=config.seed)
    settings = {name: hash_json(key) for name, key in images.cache_keys().items()}
    settings |= {"data": data.source.name, "size": config.size, "batch": config.batch, "lumen": version("lumen")}
    records = data.source.records("train")[:count]
    with lock_directory(out, LOCK_NAME):
        _claim(out, settings)
        for draft in out.rglob(DRAFTS):  # of killed commands: this one holds the lock
            draft.unlink(missing_ok=True)
        writer = Writer(out, data, images, hash_json(settings), config.batch)
        return writer.write(records)


def _verify(run: Path, config: Config, data: DataModule, domains: list[str]) -> None:
    """Verify what can be verified before networks are loaded.

    Raises:
        BadConfig: The run is not finished, a key was decided by training, or images would show parts of the originals.
        UnknownName: The data set does not know a domain.
    """
    if not is_finished(run):
        raise BadConfig(f"{run} is not finished; repeat its lumen train command first.")
    if fixed := next((key for key in config.flags if not is_evaluation_key(key)), None):
        raise BadConfig(
            f"{fixed} was decided when {run} was trained; lumen synthesize changes {', '.join(EVALUATION_KEYS)}."
        )
    if not data.source.has_labels:
        raise BadConfig(f"{data.source.name} has no labels to train on; lumen sample generates images of photos.")
    for domain in domains:
        data.source.require_domain(domain)
    record = data.source.records("train")[0]
    if "image" not in data.source.copy_files(record, record.id, data.source.root):
        raise BadConfig(f"{data.source.name} has no files of images; name a run on a data set that has some.")
    if record.files and _visible_window(data, record) is None:
        raise BadConfig(
            f"the images that {data.source.name} is evaluated on are parts of its frames, and labels are those of "
            "whole frames; add data.fit=stretch, or data.full=true if the data set has it."
        )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new directory, or compare those that are there.

    Raises:
        Mistake: The directory holds images of other settings, or anything that this command has not written.
    """
    path = out / SETTINGS_NAME
    if not path.exists():
        if any(file.name != LOCK_NAME and not file.match(DRAFTS) for file in out.iterdir()):
            raise Mistake(f"{out} is not empty, and lumen synthesize has not made it; choose another out=DIR.")
        write_json(path, settings)
    before = read_json(path, "choose another out=DIR")
    if changed := [key for key in sorted(before | settings) if before.get(key) != settings.get(key)]:
        raise Mistake(f"{out} holds images of other settings ({', '.join(changed)}); choose another out=DIR.")


def _visible_window(data: DataModule, record: ImageRecord) -> tuple[int, int, int, int] | None:
    """Return the part of a generated image that shows the whole original, bars left out; None if there is none."""
    with Image.open(record.files["image"]) as image:
        transform = data.source.transform_for(image.size, None)
    left, upper, right, lower = transform.window
    width, height = transform.resized
    shows_all = max(left, upper) <= 0 and right >= width and lower >= height
    return (-left, -upper, width - left, height - upper) if shows_all else None


class Writer:
    """Writer of generated images and of the annotations that they share with the originals.

    Args:
        out: Directory of the new data set.
        digest: Hash of the settings, which each image holds.
        batch_size: Images that are generated together; the last bits of an image may depend on their number.
    """

    def __init__(self, out: Path, data: DataModule, images: SyntheticImages, digest: str, batch_size: int):
        self.out, self.data, self.images, self.digest, self.batch_size = out, data, images, digest, batch_size
        self.dataset = data.dataset("train")
        self.position = {record.id: i for i, record in enumerate(self.dataset.records)}
        has_files = bool(self.dataset.records[0].files)
        self.root = data.source.index_split("train").root if has_files else Path()

    def write(self, records: Sequence[ImageRecord]) -> int:
        """Write all images that are not there, then their captions, and return the number of images there are."""
        copies = {
            name: [Copy(record, f"{record.id}{name.removeprefix('synthetic')}", name) for record in records]
            for name in self.images.sets
        }
        batches = [
            members[i : i + self.batch_size]
            for members in copies.values()
            for i in range(0, len(members), self.batch_size)
        ]
        count = sum(map(len, copies.values()))
        pending = [batch for batch in batches if not all(map(self.is_written, batch))]
        num_left, start = sum(map(len, pending)), time.perf_counter()
        announce(f"{count} images, {count - num_left} of them written before")
        phase = Phase("generating", num_left, "images")
        with phase:
            for number, batch in enumerate(pending):
                size = self._write_batch(batch)
                phase.advance(len(batch))
                if number == 0:
                    seconds = (time.perf_counter() - start) * (num_left / len(batch) - 1)
                    need = format_bytes(size * num_left // len(batch))
                    announce(f"{need} in all, about {format_duration(seconds)} more; safe to interrupt.")
        self._write_captions([copy for members in copies.values() for copy in members])
        return count

    def is_written(self, copy: Copy) -> bool:
        """Return whether all files of a copy are there, and its image is one of these settings that can be read."""
        files = self._files(copy)
        path, _ = files.pop("image")
        with suppress(OSError, SyntaxError, ValueError), Image.open(self.out / path) as image:
            image.load()  # which reads all of it
            mark = image.info.get("synthesis") or image.info.get("comment", b"").decode()
            return mark == self.digest and all(
                (self.out / name).is_file() and (self.out / name).read_bytes() == content
                for name, content in files.values()
            )
        return False

    def _write_batch(self, batch: list[Copy]) -> int:
        """Generate and write the images of a batch; return the bytes of their files."""
        # Filled up, so that all batches have the same size.
        filled = [batch[i % len(batch)] for i in range(self.batch_size)]
        samples = collate(self.dataset.__getitems__([self.position[copy.record.id] for copy in filled]))
        if isinstance(samples, Mistake):
            raise samples
        generated = self.images.generate(batch[0].set_name, samples.to(self.images.task.device)).cpu()
        return sum(self._write_copy(copy, pixels) for copy, pixels in zip(batch, generated, strict=False))

    def _write_copy(self, copy: Copy, pixels: UInt8[Tensor, "3 H W"]) -> int:
        """Write the files of a copy, its image last; return their bytes."""
        files = self._files(copy)
        path, _ = files.pop("image")
        for name, content in files.values():
            write(self.out / name, content)
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        if copy.record.files:
            window = _visible_window(self.data, copy.record)
            with Image.open(copy.record.files["image"]) as original:
                image = image.crop(window).resize(original.size, Image.Resampling.LANCZOS)
        with atomic_path(self.out / path) as draft:
            if path.suffix == ".png":
                save_png(image, draft, {"synthesis": self.digest})
            else:
                image.save(draft, "JPEG", quality=95, subsampling=0, comment=self.digest)
        return (self.out / path).stat().st_size + sum(len(content) for _, content in files.values())

    def _files(self, copy: Copy) -> Files:
        """Return the files of a copy without that of captions, which all share."""
        files = self.data.source.copy_files(copy.record, copy.name, self.root)
        return {kind: file for kind, file in files.items() if kind != "captions"}

    def _write_captions(self, copies: list[Copy]) -> None:
        """Write the prompts as the captions of the data set."""
        record = copies[0].record
        path, _ = self.data.source.copy_files(record, record.id, self.root)["captions"]
        domains = {name: domain for name, (domain, _) in self.images.sets.items()}
        captions = {copy.name: self.images.prompts[domains[copy.set_name]][copy.record.id] for copy in copies}
        written = read_json(self.out / path, "remove it") if (self.out / path).exists() else {}
        write_json(self.out / path, written | captions)
