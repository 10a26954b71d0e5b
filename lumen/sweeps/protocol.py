"""Evaluation protocols and data of a table's runs: whether their values are comparable, and a sentence about them."""

import json
from typing import Any

from lumen.config.identity import flatten
from lumen.core.errors import Mistake
from lumen.core.registry import metrics

EVALUATE_ROWS = "remove the metrics.json of those that differ and repeat lumen ablate to evaluate them again"
TRAIN_ROWS = "remove the directories of those that differ and repeat lumen ablate"
MISSING = object()  # value of a key that a protocol lacks, and that has no default


def verify_comparable(protocols: list[dict[str, Any]], what: str = "rows", remedy: str = EVALUATE_ROWS) -> None:
    """Verify that values were evaluated under one protocol.

    Versions of LUMEN add keys. An argument of a metric that a protocol lacks counts as its default, and any other key
    that a protocol lacks is not compared.

    Args:
        what: Word for that which is compared.
        remedy: Next step of the user.

    Raises:
        Mistake: Protocols differ; the message names the keys and their values.
    """
    flattened = [flatten(protocol) for protocol in protocols]
    differences = {}
    for key in sorted(set().union(*flattened) - {"hash"}):
        default = _default(key)
        values = [
            settings.get(key, default if _has_metric(protocol, key) else MISSING)
            for protocol, settings in zip(protocols, flattened, strict=True)
        ]
        texts = {_text(value) for value in values if value is not MISSING}
        if len(texts) > 1:
            differences[key] = sorted(texts)
    if differences:
        listed = "; ".join(f"{key}: {' or '.join(texts)}" for key, texts in differences.items())
        raise Mistake(
            f"the {what} were evaluated under different protocols ({listed}), so they cannot be compared; {remedy}."
        )


def verify_data(fingerprints: list[str], what: str = "rows", remedy: str = TRAIN_ROWS) -> None:
    """Verify that runs recorded one data set.

    Args:
        what: Word for that which is compared.
        remedy: Next step of the user.

    Raises:
        Mistake: They recorded several.
    """
    if len(values := sorted(set(fingerprints))) > 1:
        raise Mistake(
            f"the {what} were trained on different data (fingerprints {', '.join(values)} in their provenance.json), "
            f"so they cannot be compared; {remedy}."
        )


def describe_protocol(protocols: list[dict[str, Any]]) -> str:
    """Return a sentence about the images, the sampling and the hashes of protocols; nothing if there are none."""
    if not protocols:
        return ""
    first, hashes = protocols[0], " ".join(dict.fromkeys(protocol["hash"] for protocol in protocols))
    sampling = first["sampling"]
    if "recipe" in first:  # predictions, which nothing samples
        return f"{first['images']} held-out images of each data set; protocol {hashes}."
    return (
        f"{first['images']} held-out images, {first['samples']} samples of each, {sampling['sampler']} in "
        f"{sampling['steps']} steps at guidance {sampling['guidance']}; protocol {hashes}."
    )


def _default(key: str) -> Any:
    """Return the default of a metric's argument, as its source has it; MISSING for any other key."""
    group, *names = key.split(".")
    if group != "metrics" or len(names) != 2 or names[0] not in metrics.names():
        return MISSING
    argument = metrics.arguments(names[0]).get(names[1])
    return MISSING if argument is None or argument.required else argument.default


def _has_metric(protocol: dict[str, Any], key: str) -> bool:
    """Return whether a protocol has the metric that a key such as metrics.miou.segmenter is about."""
    return key.split(".")[1] in protocol.get("metrics", {}) if key.startswith("metrics.") else False


def _text(value: Any) -> str:
    """Return a value as text; a tuple reads as the list that JSON makes of it."""
    return str(json.loads(json.dumps(value, default=str)))
