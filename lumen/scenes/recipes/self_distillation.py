"""Self-distillation: a student Vision Transformer learns what its own average, the teacher, says of other views."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from timm import create_model
from timm.models import VisionTransformer, save_for_hf
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.scenes.recipes.multi_crop import coloured, cropped, elsewhere
from lumen.scenes.recipes.rendered_dataset import drawn
from lumen.scenes.recipes.trainer import DEVICE, Course
from lumen.scenes.recipes.vae import SIZE, pixels

CARD = "vit_tiny_patch16_224"  # timm's name of the architecture; its mean and deviation of 0.5 make [-1, 1]
SHAPE = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}
# A crop is shown at about the size it has in the image, as the patches are what is to be learnt.
LARGE, SMALL = (48, 0.4, 1.0), (24, 0.08, 0.25)  # pixels, least and most of the image's area; two of each
PROTOTYPES = 256
COLD, WARM = 0.04, 0.1  # temperatures of teacher and student
MOMENTUM = 0.95  # what the teacher keeps of itself in a step; DINO's 0.996 is for a hundred times as many


class Head(nn.Module):
    """Scores of prototypes: a small network, a unit vector, cosines."""

    def __init__(self, width: int, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, bottleneck))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n p"]:
        return F.normalize(self.layers(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Tower(nn.Module):
    """A Vision Transformer, and what it says of a whole view and of its patches."""

    def __init__(self):
        super().__init__()
        self.vit: VisionTransformer = create_model(CARD, dynamic_img_size=True, **SHAPE)
        self.whole, self.part = Head(self.vit.embed_dim), Head(self.vit.embed_dim)
        self.hidden = nn.Parameter(torch.zeros(self.vit.embed_dim))  # stands for a masked patch

    def forward(self, view: Float[Tensor, "b 3 H W"], mask: Bool[Tensor, "b h w"] | None = None) -> Tensor:
        """The normalised tokens (b, 1 + h w, c), the class token first."""
        x = self.vit.patch_embed(view)  # b h w c
        if mask is not None:
            x = torch.where(mask[..., None], self.hidden, x)
        return self.vit.norm(self.vit.blocks(self.vit.norm_pre(self.vit._pos_embed(x))))


class Pair(nn.Module):
    """Student and teacher, in one module so that a stopped training finds both again."""

    def __init__(self, steps: int, momentum: float = MOMENTUM):
        super().__init__()
        self.student, self.teacher = Tower(), Tower().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.steps, self.momentum = steps, momentum
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self) -> None:
        """The teacher's weights a little nearer to the student's, less and less so."""
        done = min(1, self.step.item() / self.steps)
        nearer = (1 - self.momentum) * (0.5 + 0.5 * math.cos(math.pi * done))
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), nearer)
        self.step += 1

    def forward(
        self, large: Tensor, small: Tensor, places: Float[Tensor, "v 2 2"], mask: Bool[Tensor, "v n n"] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "v c"]]:
        """DINO's loss of the whole views, and the same of patches that show the same place in both large ones.

        Args:
            large: two views of b images, all the first ones first; `small` ones likewise.
            mask: which patches the student does not see.

        Returns:
            the loss, and the student's class tokens of the large views.
        """
        b, n = len(large) // 2, large.shape[-1] // self.student.vit.patch_embed.patch_size[0]
        with torch.no_grad():
            known = self.teacher(large)
            other = known[:, 1:].mT.unflatten(2, (n, n)).roll(b, 0)
            place, shared = elsewhere(places, places.roll(b, 0), n)
            there = F.grid_sample(other, place, align_corners=False).permute(0, 2, 3, 1)[shared]
            whole, part = balanced(self.teacher.whole(known[:, 0])), balanced(self.teacher.part(there))
        tokens = self.student(large, mask)
        said = self.student.whole(torch.cat([tokens[:, 0], self.student(small)[:, 0]]))
        patches = self.student.part(tokens[:, 1:][shared.flatten(1)])
        loss = agreement(said.unflatten(0, (-1, b)), whole.unflatten(0, (2, b))) + entropy(patches, part)
        return loss, tokens[:, 0]


def entropy(scores: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of what the student says with what the teacher says."""
    return -(targets * (scores / WARM).log_softmax(-1)).sum(-1).mean()


def agreement(scores: Float[Tensor, "v b p"], targets: Float[Tensor, "2 b p"]) -> Float[Tensor, ""]:
    """That entropy for each view and every other large one."""
    pairs = [entropy(scores[v], targets[t]) for t in range(2) for v in range(len(scores)) if v != t]
    return torch.stack(pairs).mean()


@torch.no_grad()
def balanced(scores: Float[Tensor, "n p"], rounds: int = 3) -> Float[Tensor, "n p"]:
    """The teacher's shares of the prototypes, all of which get as much of the batch (Sinkhorn-Knopp)."""
    shares = ((scores - scores.max()) / COLD).exp()
    for _ in range(rounds):
        shares = F.normalize(shares, p=1, dim=0)
        shares = F.normalize(shares, p=1, dim=1)
    return shares


def distilled(
    course: Course, work: Path, images: int, loss: Callable[[Pair, tuple], Tensor]
) -> tuple[VisionTransformer, dict]:
    """The teacher's network after it was taught on the train scenes, and what the card tells of that.

    `loss` is of the pair and what its `forward` takes but for a mask.
    """
    pictures = drawn(work, "train", images, SIZE).image
    torch.manual_seed(course.seed)
    pair = Pair(course.steps)

    def of_batch() -> Tensor:
        pair.follow()
        image = pixels(pictures[torch.randint(images, (course.batch,)).numpy()])
        crops, places = zip(*(cropped(image, *LARGE) for _ in range(2)), strict=True)
        small = torch.cat([cropped(image, *SMALL)[0] for _ in range(2)])
        parts = coloured(torch.cat(crops)), coloured(small), torch.cat(places)
        return loss(pair, tuple(part.to(DEVICE) for part in parts))

    figures = course.train(pair, of_batch)
    return pair.teacher.vit, figures


def save(out: Path, vit: VisionTransformer) -> None:
    """An ordinary timm folder in half precision."""
    save_for_hf(
        vit.half(), str(out), {"pretrained_cfg": {"tag": "scenes"}}, SHAPE, safe_serialization=True,
        data_config={"input_size": (3, SIZE, SIZE)},
    )  # fmt: skip
    (out / "model.safetensors").chmod(0o644)  # safetensors lets nobody else read what it writes over
