"""What the parts promise one another: Batch, Backbone, Conditioning, Metric."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
import torchmetrics
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchmetrics.utilities import dim_zero_cat

from lumen.core.bootstrap import drawn, within
from lumen.core.errors import BadCheckpoint
from lumen.core.hashing import fingerprint
from lumen.core.resize import resize

IGNORE = 255  # the label of pixels that belong to no class
KEPT = 2**30  # bytes that a metric may remember of reference images


@dataclass
class Batch:
    """Images with what is known of them; `id` names a sample within its data set for ever.

    What comes from a cache, `moments` and `layout`, stands in for the image, which is not read where both are there.
    """

    image: Float[Tensor, "b 3 H W"] | UInt8[Tensor, "b 3 H W"] | None  # RGB in [-1, 1]; bytes until it is where it goes
    caption: list[str]
    id: list[str]
    mask: Int[Tensor, "b H W"] | None = None  # class ids, IGNORE where there is none
    extra: dict[str, Any] = field(default_factory=dict)  # disparity, camera, boxes: where the data set has them
    moments: Float[Tensor, "b _ _ _"] | None = None  # of the latents, as `pipeline.moments` gives them
    layout: Float[Tensor, "b _ _ _"] | None = None  # as `Conditioning.kept` gives it

    @property
    def pixels(self) -> UInt8[Tensor, "b 3 H W"]:
        """The images as a file holds them."""
        return ((self.image.float() + 1) * 127.5).round().clamp(0, 255).byte()

    def to(self, device: torch.device | str, **options: Any) -> "Batch":
        """A copy with its tensors on a device, the image as numbers; Lightning calls it. `extra` stays where it is."""
        moved = self._each(lambda tensor: tensor.to(device, **options))
        if moved.image is not None and moved.image.dtype == torch.uint8:
            moved.image = moved.image.float() / 127.5 - 1
        return moved

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory, from where a GPU takes it without waiting; the loader calls it."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {name: getattr(self, name) for name in ("image", "mask", "moments", "layout")}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


class Backbone(nn.Module):
    """A frozen network that looks at an image and gives dense features.

    A subclass sets the attributes and writes `maps`; several maps of different resolution
    are one feature after the coarser ones are resized to the finest and concatenated.
    """

    widths: tuple[int, ...]  # channels of each map
    stride: int  # image pixels per cell of the finest map
    identity: dict[str, str]  # what a basis fitted on these features belongs to, with the weights' hash
    last: str | None = None  # the convolution that gives the finest map, where one does: a projection may join it

    def maps(self, image: Float[Tensor, "b 3 H W"]) -> list[Tensor]:
        """Features of an image in [-1, 1], one (b, c_i, h_i, w_i) each, the finest last.

        Raises:
            BadSize: the network cannot take this size; the message names sizes that it can.
        """
        raise NotImplementedError(f"{type(self).__name__} must write maps()")

    @property
    def channels(self) -> int:
        return sum(self.widths)

    def features(self, image: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c h w"]:
        maps = self.maps(image)
        return torch.cat([resize(m, maps[-1].shape[-2:]) for m in maps], dim=1)

    def frozen(self) -> "Backbone":
        """Itself, in evaluation mode, with no parameter that could learn."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode: a frozen network has no training mode to be put into."""
        return super().train(False)


class Conditioning(nn.Module):
    """Turns a batch into the layout that the ControlNet sees.

    Args:
        frozen: the networks that it looks through, by name; they go where it goes, and are neither trained nor saved.
    """

    channels: int
    hint: Literal["latent", "image"] = "image"  # where the layout enters the ControlNet, unless the config says
    fitted: bool = True  # False: `learn` must run before `forward`
    wants: int | None = 0  # training images that `gather` would like to see; None is all of them
    gathering: dict[str, Any] = {}  # all that `gather` depends on besides images and seed

    def __init__(self, **frozen: nn.Module):
        super().__init__()
        # A plain dict keeps them out of state_dict, DDP buckets, EMA and train mode.
        self.networks = {name: network.requires_grad_(False).eval() for name, network in frozen.items()}

    def forward(self, batch: Batch) -> Float[Tensor, "b k h w"]:
        raise NotImplementedError(f"{type(self).__name__} must write forward()")

    def kept(self, batch: Batch) -> Float[Tensor, "b n h w"]:
        """What a cache holds of a layout: all that is costly. `layout(kept(batch))` is `forward(batch)`."""
        return self(batch)

    def layout(self, kept: Float[Tensor, "b n h w"]) -> Float[Tensor, "b k h w"]:
        return kept

    def recipe(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """All that `kept` depends on besides the batch.

        Args:
            arguments: those that it was built with.
        """
        return {"arguments": arguments, "networks": self.identity, "own": fingerprint(self)}

    def gather(self, batches: Iterable[Batch], images: int, seed: int) -> Float[Tensor, " n"]:
        """What is needed of `images` training images to learn from them, which a cache keeps.

        In DDP each rank brings its share, and all get the whole.
        """
        return torch.empty(0)

    def learn(self, gathered: Float[Tensor, " n"], seed: int, fingerprint: str) -> None:
        """Learns what `forward` needs.

        Args:
            fingerprint: of the data.
        """

    def fit(self, batches: Iterable[Batch], images: int, seed: int, fingerprint: str) -> None:
        self.learn(self.gather(batches, images, seed), seed, fingerprint)

    def record(self) -> dict[str, float]:
        """Figures worth a line in the results."""
        return {}

    def shown(self, layout: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 3 h w"]:
        """A layout as people see it, RGB in [0, 1]: one of values in [0, 1] is shown as it is, in grey or in colour."""
        return layout[:, :3] if layout.shape[1] >= 3 else layout[:, :1].expand(-1, 3, -1, -1)

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a layout depends on besides the config: of each frozen network its weights, hashed."""
        return {name: fingerprint(network) for name, network in self.networks.items()}

    def get_extra_state(self) -> dict:
        """What a checkpoint remembers besides tensors."""
        return self.identity

    def set_extra_state(self, remembered: dict) -> None:
        """
        Raises:
            BadCheckpoint: what was learnt belongs to other layouts.
        """
        mine = self.identity
        apart = sorted(name for name in remembered.keys() | mine.keys() if remembered.get(name) != mine.get(name))
        if apart:
            raise BadCheckpoint(
                f"this checkpoint was trained on layouts of another {apart[0]} ({remembered.get(apart[0])}, here "
                f"{mine.get(apart[0])}); give the conditioning, its weights and revision, and the data of its training."
            )

    def _apply(self, fn, recurse: bool = True):
        for network in self.networks.values():
            network._apply(fn)
        return super()._apply(fn, recurse)


class Metric(torchmetrics.Metric):
    """Judges painted images by what they should show; ranks add up, and no image is counted twice.

    A subclass writes `each`, the row of numbers that one image brings, and `figure`, what many rows
    amount to: with the rows kept, an interval follows by drawing the images anew, and so does the
    difference between two runs that painted the same images.

    Args:
        evaluator: the frozen network that looks at images; it goes where the images are.
    """

    higher_is_better: bool
    full_state_update = False
    samples = 1  # how many of one image it needs
    least = 1  # how many of all images together: of fewer it would say nothing
    instead: str | None = None  # the metric that takes its place where there are fewer
    draws = 1000  # of the images anew, for an interval

    def __init__(self, evaluator: nn.Module):
        super().__init__()
        # A tuple keeps it out of parameters, state and copies.
        self._frozen = (evaluator.requires_grad_(False).eval(),)
        self.kept: dict[str, Tensor] = {}  # what was seen of each reference image, by its id
        self.rows: list[Tensor]
        self.add_state("rows", [], dist_reduce_fx="cat")

    @property
    def evaluator(self) -> nn.Module:
        return self._frozen[0]

    @property
    def title(self) -> str:
        """The name that its figures go by; with another network than the published one it is another measure."""
        return type(self).__module__.rpartition(".")[2]

    def each(self, batch: Batch, painted: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b ..."]:
        """What each image of the batch brings, n samples of it being painted; images are in [-1, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must write each()")

    @staticmethod
    def figure(rows: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
        raise NotImplementedError("a metric must write figure()")

    def parts(self, rows: Float[Tensor, "b ..."]) -> dict[str, Float[Tensor, ""]]:
        """Further figures by name, such as one per class."""
        return {}

    def once(self, batch: Batch, look: Callable[[Tensor], Tensor]) -> Tensor:
        """What `look` makes of the reference images of a batch (b, ...): each is looked at once, and remembered."""
        new = [n for n, i in enumerate(batch.id) if i not in self.kept]
        found = dict(zip([batch.id[n] for n in new], look(batch.image[new]).cpu(), strict=True)) if new else {}
        known = self.kept | found
        if sum(each.nbytes for each in known.values()) < KEPT:
            self.kept = known
        return torch.stack([known[i] for i in batch.id]).to(batch.image.device)

    def judge(self, batch: Batch, painted: Float[Tensor, "b n 3 H W"]) -> Float[Tensor, "b ..."]:
        """The rows of a batch, in fp32 whatever the precision of training: figures of two machines are compared."""
        self.evaluator.to(painted.device)
        with torch.no_grad(), torch.autocast(painted.device.type, enabled=False):
            return self.each(batch, painted.float())

    def update(self, batch: Batch, painted: Float[Tensor, "b n 3 H W"]) -> None:
        self.rows.append(self.judge(batch, painted))

    def compute(self) -> Float[Tensor, ""]:
        return self.figure(dim_zero_cat(self.rows))

    @classmethod
    def drawn(cls, rows: Float[Tensor, "b ..."]) -> Float[Tensor, " draws"]:
        """Its figures of as many images drawn anew."""
        return drawn(cls.figure, rows, cls.draws)

    @classmethod
    def interval(cls, rows: Float[Tensor, "b ..."]) -> list[float]:
        """Low and high end of where the figure would fall for other images of the same kind, 95 times of 100."""
        return within(cls.drawn(rows))
