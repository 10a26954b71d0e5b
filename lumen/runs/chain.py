"""Chains of runs: verification that one can learn from what another generates, by configs and files, without torch."""

from lumen.config.schema import DEFAULT_TASK, Config
from lumen.core.errors import BadConfig
from lumen.core.registry import tasks
from lumen.data.source import DataSource

SYNTHETIC, FILTER_RUN = "task.synthetic", "task.filter_run"  # keys that name runs
# Arguments of a data set that do not decide what a run has seen of the world.
PLACE_KEYS = {"root", "source", "shards", "revision", "captions", "images", "flip", "full", "fit"}


def verify_chain(config: Config, trained: Config, source: DataSource) -> None:
    """Verify, before either run is built, that a run can learn from the images that another one generates.

    Args:
        trained: Config of the run that generates them.
        source: Data set of both.

    Raises:
        BadConfig: That run generates no images, or learns from another data set or image size.
        UnknownName: The data set has no captions for a domain.
    """
    arguments, name = config.task, trained.task["name"]
    domains = [source.require_domain(domain) for domain in arguments["domains"] or ()]
    if arguments["row"] == "shuffled" and len(source.train_records()) < 2:
        raise BadConfig(
            "task.row=shuffled needs two training images or more; raise task.images, or leave task.row out."
        )
    verify_alike(SYNTHETIC, config, trained)
    if (kind := tasks.literal(name, "output_kind", "images")) != "images":
        raise BadConfig(
            f"{SYNTHETIC}={arguments['synthetic']} predicts {join_kinds(kind)}; name a run that generates images, "
            f"as the task {DEFAULT_TASK} does."
        )
    if domains and not tasks.literal(name, "is_prompted", True):
        raise BadConfig(
            f"{SYNTHETIC}={arguments['synthetic']} follows no prompt, which task.domains needs; leave them out."
        )


def verify_alike(key: str, config: Config, trained: Config) -> None:
    """Verify that a run which a key names was trained on the same data set and image size.

    Raises:
        BadConfig: It was not.
    """
    pairs = {"data": (trained.data["name"], config.data["name"]), "size": (trained.size, config.size)}
    if config.task.get("unseen"):  # what that run has seen is not unseen
        decided = {key: value for key, value in config.data.items() if key not in ("name", *PLACE_KEYS)}
        pairs |= {f"data.{key}": (trained.data.get(key), value) for key, value in decided.items()}
    for setting, (before, now) in pairs.items():
        if before != now:
            run = config.task[key.removeprefix("task.")]
            raise BadConfig(f"{key}={run} was trained with {setting}={before}, and this run has {setting}={now}.")


def verify_annotations(source: DataSource, task: str) -> dict[str, int]:
    """Return how many training images have what a task learns from, by kind.

    Raises:
        BadConfig: None of them has.
    """
    kinds = tasks.literal(task, "annotations", ())
    records = source.records("train") if kinds else ()
    counts = {kind: source.num_annotated(kind, records) for kind in kinds}
    if missing := next((kind for kind, count in counts.items() if not count), None):
        raise BadConfig(
            f"task={task} learns from {missing}, and {source.name} has none of its train split; unpack those files in "
            f"{source.root}, or choose a data set that has them, such as scenes."
        )
    return counts


def join_kinds(kind: str | tuple[str, ...]) -> str:
    """Return kinds of outputs as words."""
    return kind if isinstance(kind, str) else " and ".join(kind)
