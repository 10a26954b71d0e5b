"""Settings by which a run reads its data set."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LoaderConfig:
    """Settings by which a run reads its data set.

    Attributes:
        size: Side of a training image in pixels.
        batch_size: Images of a micro-batch on one rank.
        num_batches: Micro-batches of the whole run, which is one epoch to Lightning.
        workers: Processes that read ahead.
        seed: Seed of the order and of augmentation.
        val_images: Images of the validation split to use, spread evenly over it.
        eval_images: Images of the evaluation split to use, spread evenly over it.
        train_images: Images of the training split to use, spread evenly over it; None uses all.
        questions: File of questions about captions.
        views: Random crops per image, used in turn; None samples a new crop in every epoch.
    """

    size: int = 512
    batch_size: int = 4
    num_batches: int = 1
    workers: int = 0
    seed: int = 0
    val_images: int = 64
    eval_images: int = 64
    train_images: int | None = None
    questions: str | None = None
    views: int | None = None
