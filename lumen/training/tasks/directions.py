"""Directions (after Wang et al. 2022, arXiv:2212.01455): class-specific controls in the noise of a frozen GAN."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningDataModule
from safetensors.torch import save
from torch import Tensor, nn

from lumen.core.errors import BadConfig, BadSample
from lumen.core.files import write
from lumen.core.interfaces import IGNORE, Batch, Generator, Optimization, Preview, Stage, Task
from lumen.core.palette import class_palette
from lumen.core.random import keyed_uniform, stable_seed
from lumen.core.ranges import Range
from lumen.core.registry import tasks
from lumen.core.visualize import preview_columns
from lumen.features.oasis import class_planes, class_shares
from lumen.training.latent_directions import (
    MAX_BLOCKS,
    PCA_IMAGES,
    PcaStatistics,
    choose_classes,
    choose_pairs,
    expected_length,
    random_directions,
    scale_directions,
    sefa_directions,
    shift_noise,
    triplet_and_area,
)

EDIT_BATCH = 16  # edits that are generated at once


@tasks.register
class Directions(Task):
    """Search of directions in the noise of each class along which a generator edits that class; see docs/siblings.md.

    The generator is OASIS, and stays as it is. A direction always has the mean length of noise.

    Args:
        directions: Directions of each class.
        find: learned trains them; random, sefa and pca (GANSpace) find them without a step and need steps=0.
        triplet: Weight of the loss that wants one direction to do the same for every noise, and two to differ.
        area: Weight of the loss that wants changes inside the class alone.
        generator: Generator with `noise`, `render` and `network`, such as oasis.
    """

    output_kind = ("images", "edits")
    min_steps = 0
    metrics = ("consistency", "diversity", "leak", "kid", "miou")
    settings = {"generator": "oasis", "lr": 1e-3, "batch": 16, "steps": 20000, "warmup": 0}
    reference_rows = {"fresh": "fresh noise of the class"}
    weights_hint = "the same generator.weights and diffusion.weights"
    trained_network = "directions"

    def __init__(
        self,
        directions: Annotated[int, Range(2, 64)] = 5,
        find: Literal["learned", "random", "sefa", "pca"] = "learned",
        triplet: Annotated[float, Range(0, 1000)] = 1.0,
        area: Annotated[float, Range(0, 1000)] = 1.0,
        *,
        generator: Generator,
        optimization: Optimization,
        seed: int = 0,
    ):
        super().__init__(optimization, seed)
        if not hasattr(generator, "noise_shape"):
            raise BadConfig("task=directions edits the noise of a GAN; leave generator out, or write generator=oasis.")
        if (find == "learned") != (optimization.steps > 0):
            advice = "leave steps out" if find == "learned" else "write steps=0"
            raise BadConfig(f"task.find={find} cannot have steps={optimization.steps}; {advice}.")
        classes, noise = generator.noise_shape
        if directions > noise:
            raise BadConfig(f"task.directions={directions} is more than the {noise} numbers of a class's noise.")
        self.generator, self.find, self.triplet_weight, self.area_weight = generator, find, triplet, area
        start = random_directions((classes, directions, noise), seed).to(torch.get_default_device())
        self.vectors = nn.Parameter(start, requires_grad=find == "learned")
        self.register_buffer("fitted", torch.tensor(find in ("learned", "random")))

    # ---- networks

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """Networks of the generator."""
        return self.generator.networks

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of the generator's networks."""
        return self.generator.identity

    @property
    def source(self) -> str:
        """Origin of the generator's frozen weights."""
        return self.generator.source

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that directions belong to."""
        return self.generator.network.config.classes

    @property
    def scaled_vectors(self) -> Float[Tensor, "c k n"]:
        """Directions at the length at which they are applied."""
        return scale_directions(self.vectors)

    # ---- directions without learning

    @torch.no_grad()
    def fit_statistics(self, data: LightningDataModule, cached: Callable[..., Tensor] | None = None) -> None:
        """Find directions that follow from the generator: by its weights, or by its outputs for training label maps."""
        if bool(self.fitted):
            return
        network, count = self.generator.network, self.vectors.shape[1]
        if self.find == "sefa":
            vectors = sefa_directions(network, count).expand_as(self.vectors)
        else:
            statistics = PcaStatistics(network, (len(network.blocks) - 1) // 2)
            images = min(PCA_IMAGES, len(data.dataset("train")))

            def compute() -> Tensor:
                total = statistics.compute(data.sample_dataloader(images), self.seed)
                if data.trainer is None or data.trainer.world_size == 1:
                    return total
                return data.trainer.strategy.all_gather(total.to(self.device)).sum(0).cpu()

            key = {"pca": self.identity, "block": statistics.index}
            vectors = statistics.directions(cached(key, images, compute) if cached else compute(), count)
        self.vectors.copy_(vectors)
        self.fitted.fill_(True)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        triplet, area = self.losses(batch, [(self.seed, image_id, self.global_step) for image_id in batch.id])
        loss = self.triplet_weight * triplet + self.area_weight * area
        self.log_dict({"train/triplet": triplet, "train/area": area}, batch_size=len(batch.id))
        self.log("train/loss", loss, sync_dist=True, batch_size=len(batch.id))
        return loss

    def losses(self, batch: Batch, keys: list[tuple]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return both losses of images whose class, directions and noises follow from keys."""
        mask = self.labels_of(batch)
        chosen = choose_classes(mask, len(self.class_names), [(*key, "class") for key in keys])
        k, other = (index.to(mask.device) for index in choose_pairs(self.vectors.shape[1], keys))
        z, fresh = (self.generator.noise([(*key, name) for key in keys]) for name in ("noise", "fresh"))
        return self.losses_of(mask, chosen, (k, other), z, fresh)

    def losses_of(
        self, mask: Int[Tensor, "b H W"], chosen: Int[Tensor, " b"], pair: tuple[Tensor, Tensor], z: Tensor,
        fresh: Tensor,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:  # fmt: skip
        """Return the mean losses of edits of a class.

        Args:
            pair: Direction of the edit, and another one.
            z: Noise of the edit.
            fresh: Noise under which the same direction should do the same.
        """
        network, vectors = self.generator.network, self.scaled_vectors
        same, other = (vectors[chosen, index] for index in pair)
        edits = [z, shift_noise(z, chosen, same), shift_noise(fresh, chosen, same), shift_noise(z, chosen, other)]
        guide = network.guide(mask.repeat(4, 1, 1), torch.cat(edits))
        outputs = [x.chunk(4) for x in network.block_outputs(guide)[:MAX_BLOCKS]]
        rows = torch.arange(len(mask), device=mask.device)
        sizes = [tuple(parts[0].shape[-2:]) for parts in outputs]
        shares = [class_shares(mask, len(self.class_names), size)[rows, chosen] for size in sizes]
        triplet, area = triplet_and_area([list(parts) for parts in zip(*outputs, strict=True)], shares)
        return triplet.mean(), area.mean()

    def labels_of(self, batch: Batch) -> Int[Tensor, "b H W"]:
        """Return the label maps of a batch.

        Raises:
            BadSample: There are none.
        """
        if batch.mask is None:
            raise BadSample(
                f"'{batch.id[0]}' has no label map, and task=directions edits the classes of label maps; name an image "
                "of the data set, as in lumen edit RUN ID class=NAME."
            )
        self.generator.verify_size(tuple(batch.mask.shape[-2:]))
        return batch.mask

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        triplet, area = self.losses(batch, [("validation", image_id) for image_id in batch.id])
        values = {"val/triplet": triplet, "val/area": area}
        values["val/loss"] = self.triplet_weight * triplet + self.area_weight * area
        self.log_dict(values, on_epoch=True, sync_dist=True, batch_size=len(batch.id))

    # ---- outputs

    @torch.no_grad()
    def outputs(
        self,
        batch: Batch,
        seeds: list[list[int]],
        row: str = "test",
        other: Callable[[], Batch] | None = None,
        **sampling: Any,
    ) -> dict[str, Tensor]:
        """Return edited images (b, n, 3, H, W), and for each noise all edits of a class (b, n, 1 + k, 4, H, W).

        Each image has a class by its id, and each noise a direction by its seed, whose edit is the image. Of all edits
        the unedited image is the first. The fourth channel is 1 at the pixels of the edited class, else 0.

        Args:
            row: "test", or "fresh", where the class gets fresh noise in place of each direction.
        """
        mask = self.labels_of(batch)
        chosen = choose_classes(mask, len(self.class_names), [("edit", image_id) for image_id in batch.id])
        edits = torch.stack([self._edit_all(mask, chosen, image_seeds, row) for image_seeds in seeds], dim=1)
        count = self.vectors.shape[1]
        picks = [(keyed_uniform([(seed, "pick") for seed in s]).double() * count).long().to(mask.device) for s in seeds]
        rows = torch.arange(len(mask), device=mask.device)
        images = torch.stack([edits[rows, n, 1 + pick] for n, pick in enumerate(picks)], dim=1)
        planes = class_planes(mask, len(self.class_names))[rows, chosen]
        plane = planes[:, None, None, None].expand(*edits.shape[:3], 1, *mask.shape[-2:])
        return {"images": images, "edits": torch.cat([edits, plane], dim=3)}

    def _edit_all(
        self, mask: Int[Tensor, "b H W"], chosen: Int[Tensor, " b"], seeds: list[int], row: str
    ) -> Float[Tensor, "b m 3 H W"]:
        """Return the unedited images of seeds, and after them those of every direction."""
        z = self.generator.noise([(seed, "noise") for seed in seeds])
        if row == "fresh":
            count, rows = self.vectors.shape[1], torch.arange(len(z))
            fresh = [self.generator.noise([(seed, "fresh", k) for seed in seeds]) for k in range(count)]
            shifts = [noise[rows, chosen] - z[rows, chosen] for noise in fresh]
        else:
            shifts = list(self.scaled_vectors[chosen].unbind(1))
        noises = torch.stack([z, *(shift_noise(z, chosen, shift) for shift in shifts)], dim=1)
        return self.render(mask, noises)

    def render(self, mask: Int[Tensor, "b H W"], z: Float[Tensor, "b m c n"]) -> Float[Tensor, "b m 3 H W"]:
        """Return images of label maps under several noises each, a few at once."""
        labels = mask.repeat_interleave(z.shape[1], 0).split(EDIT_BATCH)
        images = [self.generator.render(*pair) for pair in zip(labels, z.flatten(0, 1).split(EDIT_BATCH), strict=True)]
        return torch.cat(images).unflatten(0, z.shape[:2])

    @property
    def edit_length(self) -> float:
        """Length of a direction when it is learnt and scored."""
        return expected_length(self.vectors.shape[-1])

    @torch.no_grad()
    def edit_series(
        self, mask: Int[Tensor, "1 H W"], classes: list[int], lengths: list[float], key: tuple
    ) -> Float[Tensor, "k l 3 H W"]:
        """Return an image along each direction of some classes at once, at several lengths."""
        z = self.generator.noise([key])
        units = torch.zeros_like(self.vectors)
        units[classes] = self.scaled_vectors[classes]
        units = units.transpose(0, 1)[:, None] / self.edit_length  # k 1 c n
        scales = torch.tensor(lengths, device=z.device)[:, None, None]
        return self.render(mask.expand(len(units), -1, -1), z + units * scales)

    @torch.no_grad()
    def preview(self, batch: Batch, num_samples: int, seed: int, **sampling: Any) -> Preview:
        """Return images, label maps, and the first edits of one noise."""
        seeds = [[stable_seed(seed, "grid", image_id) for image_id in batch.id]]
        edits = self.outputs(batch, seeds)["edits"][:, 0, : 1 + num_samples, :3]
        columns = preview_columns(batch.image, self.visualize(batch), list(edits.unbind(1)))
        titles = ["image", "layout", "unedited", *(f"direction {k}" for k in range(1, edits.shape[1]))]
        return Preview(dict(zip(titles, columns.values(), strict=True)), batch.caption, {})

    def visualize(self, batch: Batch) -> Float[Tensor, "b 3 H W"]:
        """Return the label maps in colours."""
        palette = class_palette(len(self.class_names)).to(batch.mask.device)
        labels = torch.where(batch.mask == IGNORE, len(palette) - 1, batch.mask)
        return palette[labels].permute(0, 3, 1, 2)

    def protocol(self) -> dict[str, Any]:
        """Return the frozen weights, and the directions of each class."""
        return {"diffusion": self.generator.protocol(), "directions": self.vectors.shape[1]}

    def save(self, directory: Path) -> None:
        """Write directions.safetensors: (classes, directions, numbers of the noise), at the length of an edit."""
        write(
            directory / "directions.safetensors", save({"directions": self.scaled_vectors.detach().cpu().contiguous()})
        )

    # ---- cost

    def stages(self, image: Float[Tensor, "b 3 H W"]) -> Iterator[Stage]:
        """Yield the training step."""
        labels = torch.zeros(len(image), *image.shape[-2:], dtype=torch.long)
        index = torch.zeros(len(image), dtype=torch.long)
        z = torch.empty(len(image), *self.generator.noise_shape)
        yield Stage("forward", "forward", loss=sum(self.losses_of(labels, index, (index, index), z, z)))
