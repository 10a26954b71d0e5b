"""Self-distillation after DINO: a student ViT predicts the outputs of its own moving average, the teacher."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from timm import create_model
from timm.models import VisionTransformer, save_for_hf
from torch import Tensor, nn
from torch.nn import functional as F

from lumen.scenes.recipes.multi_crop import jitter_colours, match_cells, random_crop
from lumen.scenes.recipes.rendered_dataset import render_dataset
from lumen.scenes.recipes.trainer import DEVICE, ResumableTraining
from lumen.scenes.recipes.vae import SIZE, to_pixels

ARCHITECTURE = "vit_tiny_patch16_224"  # timm's name; its mean and deviation of 0.5 give [-1, 1]
SHAPE = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}
# Size in pixels, least and largest share of the image's area; two crops of each. A crop has about the size that it has
# in the image, because the patches are to be learnt.
LARGE_CROP, SMALL_CROP = (48, 0.4, 1.0), (24, 0.08, 0.25)
PROTOTYPES = 256
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
RENEWALS = 50  # times that a training replaces the teacher; DINO's momentum of 0.996 gives a hundred times as many


class PrototypeHead(nn.Module):
    """Cosine similarities of projected tokens to learnt prototypes."""

    def __init__(self, width: int, hidden: int = 256, bottleneck: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = nn.Parameter(torch.randn(PROTOTYPES, bottleneck))

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n p"]:
        return F.normalize(self.layers(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Encoder(nn.Module):
    """Vision Transformer with a prototype head for the image and one for patches."""

    def __init__(self):
        super().__init__()
        self.vit: VisionTransformer = create_model(ARCHITECTURE, dynamic_img_size=True, **SHAPE)
        self.image_head, self.patch_head = PrototypeHead(self.vit.embed_dim), PrototypeHead(self.vit.embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(self.vit.embed_dim))

    def forward(self, view: Float[Tensor, "b 3 H W"], mask: Bool[Tensor, "b h w"] | None = None) -> Tensor:
        """Return the normalised tokens (b, 1 + h w, c), the class token first."""
        x = self.vit.patch_embed(view)  # b h w c
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token, x)
        return self.vit.norm(self.vit.blocks(self.vit.norm_pre(self.vit._pos_embed(x))))


class StudentTeacher(nn.Module):
    """Student and teacher, in one module so that the training state holds both."""

    def __init__(self, steps: int):
        super().__init__()
        self.student, self.teacher = Encoder(), Encoder().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.steps = steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher's weights towards the student's, by a share that falls to zero."""
        progress = min(1, self.step.item() / self.steps)
        weight = min(1, RENEWALS / self.steps) * (0.5 + 0.5 * math.cos(math.pi * progress))
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), weight)
        self.step += 1

    def forward(
        self, large: Tensor, small: Tensor, boxes: Float[Tensor, "v 2 2"], mask: Bool[Tensor, "v n n"] | None
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "v c"]]:
        """Return the loss, and the student's class tokens of the large crops.

        The loss is DINO's of the class tokens, plus the same loss of patches at the same position of both large crops.

        Args:
            large: Two crops of b images, all first crops before all second ones.
            small: Small crops in the same order.
            boxes: Boxes of the large crops.
            mask: Patches that are hidden from the student.
        """
        b, n = len(large) // 2, large.shape[-1] // self.student.vit.patch_embed.patch_size[0]
        with torch.no_grad():
            teacher_tokens = self.teacher(large)
            opposite = teacher_tokens[:, 1:].mT.unflatten(2, (n, n)).roll(b, 0)
            positions, shared = match_cells(boxes, boxes.roll(b, 0), n)
            matches = F.grid_sample(opposite, positions, align_corners=False).permute(0, 2, 3, 1)[shared]
            image_targets = sinkhorn_knopp(self.teacher.image_head(teacher_tokens[:, 0]))
            patch_targets = sinkhorn_knopp(self.teacher.patch_head(matches))
        tokens = self.student(large, mask)
        image_scores = self.student.image_head(torch.cat([tokens[:, 0], self.student(small)[:, 0]]))
        patch_scores = self.student.patch_head(tokens[:, 1:][shared.flatten(1)])
        image_loss = cross_view_entropy(image_scores.unflatten(0, (-1, b)), image_targets.unflatten(0, (2, b)))
        return image_loss + cross_entropy(patch_scores, patch_targets), tokens[:, 0]


def cross_entropy(scores: Float[Tensor, "n p"], targets: Float[Tensor, "n p"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the student's scores with the teacher's targets."""
    return -(targets * (scores / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1).mean()


def cross_view_entropy(scores: Float[Tensor, "v b p"], targets: Float[Tensor, "2 b p"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all pairs of a crop and another large crop."""
    pairs = [cross_entropy(scores[v], targets[t]) for t in range(2) for v in range(len(scores)) if v != t]
    return torch.stack(pairs).mean()


@torch.no_grad()
def sinkhorn_knopp(scores: Float[Tensor, "n p"], rounds: int = 3) -> Float[Tensor, "n p"]:
    """Return the teacher's assignment to prototypes, balanced so that each gets the same share of the batch."""
    shares = ((scores - scores.max()) / TEACHER_TEMPERATURE).exp()
    for _ in range(rounds):
        shares = F.normalize(shares, p=1, dim=0)
        shares = F.normalize(shares, p=1, dim=1)
    return shares


def train_self_distilled(
    training: ResumableTraining, work: Path, images: int, loss: Callable[[StudentTeacher, tuple], Tensor]
) -> tuple[VisionTransformer, dict]:
    """Train on the train scenes. Return the teacher's network and the training's rows of the model card.

    Args:
        loss: Function of the networks and of the arguments of their `forward`, without the mask.
    """
    pictures = render_dataset(work, "train", images, SIZE).image
    torch.manual_seed(training.seed)
    networks = StudentTeacher(training.steps)

    def batch_loss() -> Tensor:
        networks.update_teacher()
        image = to_pixels(pictures[torch.randint(images, (training.batch,)).numpy()])
        crops, boxes = zip(*(random_crop(image, *LARGE_CROP) for _ in range(2)), strict=True)
        small = torch.cat([random_crop(image, *SMALL_CROP)[0] for _ in range(2)])
        views = jitter_colours(torch.cat(crops)), jitter_colours(small), torch.cat(boxes)
        return loss(networks, tuple(tensor.to(DEVICE) for tensor in views))

    metrics = training.run(networks, batch_loss)
    return networks.teacher.vit, metrics


def save_vit(out: Path, vit: VisionTransformer) -> None:
    """Write a timm folder in half precision."""
    save_for_hf(
        vit.half(), str(out), {"pretrained_cfg": {"tag": "scenes"}}, SHAPE, safe_serialization=True,
        data_config={"input_size": (3, SIZE, SIZE)},
    )  # fmt: skip
    (out / "model.safetensors").chmod(0o644)  # safetensors makes files that it overwrites private
