"""Run that is loaded once for all sessions of the studio: layouts, samples step by step, and scores of one image."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from lumen.config.checks import read_literal
from lumen.config.experiment import reload
from lumen.config.schema import Config
from lumen.core.console import announce
from lumen.core.errors import BadConfig, DatasetMissing, Mistake
from lumen.core.interfaces import Batch, Metric, Task
from lumen.core.labels import IGNORE
from lumen.core.registry import conditionings, tasks
from lumen.core.visualize import draw_contours, layout_to_rgb, stretch_contrast, to_uint8
from lumen.data.datamodule import DataModule
from lumen.diffusion.sampling import observe_steps
from lumen.runs.build import build_metrics
from lumen.runs.data import build_data
from lumen.runs.directory import load_run_config
from lumen.runs.edit import find_image
from lumen.runs.sample import load_task, sample_images
from lumen.studio.edits import class_vectors
from lumen.studio.settings import Settings

METRICS = ("miou", "si_depth", "lpips")  # that one image has values of, and that users ask for
CLASS_IMAGES = 16  # from which the mean vectors of classes are taken
PREVIEW_SECONDS, PREVIEW_SHARE = 0.3, 0.2  # between two pictures of unfinished samples; of the time, to decode them
PICTURE_PIXELS = 480  # side of the picture of a layout


class Cancelled(Exception):
    """Samples that nobody waits for any more."""


class LoadedRun:
    """Trained run with its networks in memory.

    Args:
        name: Words that commands name it by: its directory, or "scenes".
        directory: Run directory.
        flags: Overrides, such as "accelerator=cpu".
        lock: Lock of all networks; sampling exchanges modules of networks that runs may share.
    """

    def __init__(self, name: str, directory: Path, flags: list[str], lock: Lock):
        self.name, self.directory, self.flags, self.lock = name, directory, flags, lock
        self.saved = load_run_config(directory)
        self.config: Config = reload(self.saved, flags)

    def verify(self) -> None:
        """Verify that photos have layouts, which the run takes edited. Nothing is loaded for that.

        Raises:
            BadConfig: It is not so.
        """
        task, conditioning = self.config.task["name"], self.config.conditioning["name"]
        if not read_literal(tasks, task, "takes_layouts", False):
            raise BadConfig(
                f"{self.name} learns the task '{task}', whose layouts cannot be edited; name a run of another task, "
                "such as layout_to_image."
            )
        if conditionings.literal(conditioning, "uses_labels", False):
            raise BadConfig(
                f"the layouts of {self.name} are label maps, which photos lack; name a run of another conditioning "
                f"than {conditioning}."
            )

    @cached_property
    def task(self) -> Task:
        """The trained task."""
        return load_task(self.directory, self.config).eval()

    @cached_property
    def data(self) -> DataModule:
        """Data set of the run."""
        return build_data(self.config)

    # ---- images and layouts

    def held_out_ids(self, count: int = 12) -> list[str]:
        """Return the ids of the first held-out images; none where the data set is not on this machine."""
        try:
            return [record.id for record in self.data.source.eval_records()[:count]]
        except DatasetMissing as missing:
            announce(str(missing))
            return []

    @cached_property
    def num_components(self) -> int:
        """Channels of a layout."""
        size = self.config.size
        return len(self.layout(Batch(torch.zeros(1, 3, size, size), [""], ["zeros"])))

    @property
    def explained(self) -> list[float] | None:
        """Share of each component in the variance of all of them, if there are axes."""
        shares = self.task.explained
        return shares and [share / sum(shares[: self.num_components]) for share in shares[: self.num_components]]

    def find_image(self, image_id: str) -> Batch:
        """Return an image of the data set as a batch of one."""
        return find_image(self.data, image_id)

    @torch.no_grad()
    def layout(self, photo: Batch) -> Float[Tensor, "k h w"]:
        """Return the layout of a photo."""
        with self.lock:
            return self.task.layout(photo.to(self.task.device))[0].float().cpu()

    @property
    def class_names(self) -> list[str]:
        """Classes of the data set; none where it is not on this machine."""
        return list(self.data.source.classes or ()) if self.held_out_ids(1) else []

    @cached_property
    def class_vectors(self) -> dict[str, Float[Tensor, " k"]]:
        """Mean vector of the cells of each class in held-out images, by its name; none without label maps."""
        if not (ids := self.held_out_ids(CLASS_IMAGES)) or not self.data.source.classes:
            return {}
        batches = [self.find_image(image_id) for image_id in ids]
        source = self.data.source
        layouts = torch.stack([self.layout(batch) for batch in batches])
        vectors = class_vectors(layouts, torch.cat([batch.mask for batch in batches]), len(source.classes))
        return {name: vector for name, vector in zip(source.classes, vectors, strict=True) if vector.isfinite().all()}

    # ---- pictures

    def visualize(
        self, layout: Float[Tensor, "k h w"], region: Bool[Tensor, "h w"], colours: tuple[int, int, int]
    ) -> Image.Image:
        """Return a layout in colours, with the outline of a region.

        Args:
            colours: Components that are red, green and blue, where the layout has components.
        """
        has_axes = self.task.explained is not None
        rgb = layout_to_rgb(layout[list(colours)][None]) if has_axes else self.task.visualize_layout(layout[None])
        picture = rgb.repeat_interleave(factor := self.cell_pixels(layout), -1).repeat_interleave(factor, -2) * 2 - 1
        outlined = draw_contours(picture, region[None].long()) if region.any() else picture
        return Image.fromarray(to_uint8(outlined[0]).numpy())

    def cell_pixels(self, layout: Float[Tensor, "k h w"]) -> int:
        """Return the side of a cell in the picture of a layout."""
        return max(1, round(PICTURE_PIXELS / max(layout.shape[-2:])))

    def tiles(self, layout: Float[Tensor, "k h w"]) -> list[tuple[Image.Image, str]]:
        """Return each component in grey, with its share of the variance."""
        shares, factor = self.explained, max(1, self.cell_pixels(layout) // 4)
        grey = stretch_contrast(layout[None])[0].repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        titles = [f"{k + 1}" + (f": {shares[k]:.1%}" if shares else "") for k in range(len(layout))]
        pictures = [Image.fromarray((tile * 255).round().byte().numpy()) for tile in grey]
        return list(zip(pictures, titles, strict=True))

    # ---- samples

    def stream(
        self, photo: Batch, layout: Float[Tensor, "k h w"] | None, settings: Settings, count: int
    ) -> Iterator[list[Float[Tensor, "3 H W"]]]:
        """Yield all samples begun so far, as they are generated; the last ones are those of `lumen sample`, to the bit.

        Args:
            layout: Layout in place of the photo's own.
        """
        pictures: Queue[Any] = Queue()
        cancelled = Event()
        words = (photo, layout, settings, count, pictures, cancelled)
        Thread(target=self._sample_into, args=words, daemon=True).start()
        try:
            while True:
                item = pictures.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                yield _newest(pictures, item)
        finally:
            cancelled.set()

    def _sample_into(self, photo: Batch, layout: Any, settings: Settings, count: int, out: Queue, stop: Event) -> None:
        """Put samples into a queue as they are generated, and last None, or the error that ended them."""
        done, calls, due = [], 0, 0.0

        def show(latents: Float[Tensor, "1 z h w"]) -> None:
            nonlocal calls, due
            if stop.is_set():
                raise Cancelled
            number, calls = calls // settings.steps, calls + 1
            begin = time.monotonic()
            if begin >= due:
                preview = self.task.generator.decode(latents)[0].float().cpu().clamp(-1, 1)
                done[number:] = [preview]
                out.put(list(done))
                end = time.monotonic()
                due = end + max(PREVIEW_SECONDS, (end - begin) * (1 / PREVIEW_SHARE - 1))

        try:
            with self.lock, observe_steps(show):
                out.put([x[0].cpu() for x in self.sample(photo, layout, settings, count)])
            out.put(None)
        except BaseException as error:  # the session that waits raises it
            out.put(error)

    @torch.no_grad()
    def sample(
        self, photo: Batch, layout: Float[Tensor, "k h w"] | None, settings: Settings, count: int, **options: Any
    ) -> list[Float[Tensor, "1 3 H W"]]:
        """Return the samples of `lumen sample`."""
        config = reload(self.saved, [*self.flags, *settings.overrides(self.config)])  # it verifies ranges
        sampling = {key: value for key, value in asdict(config.sampling).items() if key != "images"} | options
        if layout is not None:
            sampling["layout"] = layout[None].to(self.task.device)
        photo = Batch(photo.image, [settings.prompt], photo.id)
        return sample_images(self.task, photo, count, config.seed, sampling)

    # ---- scores

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Metrics that one image has values of, as far as this run's data and the weights allow them."""
        built: dict[str, Metric] = {}
        for name in METRICS:
            try:
                config = reload(self.saved, [*self.flags, f"metrics=[{name}]"])
                built |= build_metrics(config, self.data, self.task)
            except Mistake as mistake:
                announce(f"{self.name}: {name} is left out: {mistake}")
        return built

    def label_map(self, photo: Batch) -> Int[Tensor, "1 H W"] | None:
        """Return the label map of a photo: its own, or the one that the segmenter of mIoU sees in it."""
        if photo.mask is not None or "miou" not in self.metrics:
            return photo.mask
        miou: Any = self.metrics["miou"]
        miou.evaluator.to(photo.image.device)
        with torch.no_grad():
            indices = miou.predict(photo.image, tuple(photo.image.shape[-2:]))
        # mIoU merges some classes of COCO-Stuff. Any class of a merged one stands for it; no class has no label.
        classes = torch.full((len(miou.label_space.names) + 1,), IGNORE)
        classes[list(miou.label_space.class_index)] = torch.arange(len(miou.label_space.class_index))
        return classes.to(indices.device)[indices]

    def score(self, photo: Batch, samples: Float[Tensor, "1 n 3 H W"]) -> dict[str, float]:
        """Return the values of the samples of one photo by the names of metrics that readers know."""
        with self.lock:
            photo = photo.to(samples.device)
            mask = self.label_map(photo)
            batch = Batch(photo.image, photo.caption, photo.id, mask)
            metrics = [m for m in self.metrics.values() if samples.shape[1] >= m.samples_per_image]
            return {m.display_name or m.key: float(m.image_values(m.score(batch, samples))[0]) for m in metrics}


def _newest(pictures: Queue, item: list[Tensor]) -> list[Tensor]:
    """Return the newest pictures of a queue; what ends the samples stays in it."""
    while pictures.queue and isinstance(pictures.queue[0], list):
        try:
            item = pictures.get_nowait()
        except Empty:
            break
    return item
