"""Model card of an exported run: README.md with a use example, results and origin, as the Hub reads it."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment

from lumen.config.schema import Config
from lumen.core.files import write
from lumen.core.registry import conditionings, datamodules, metrics
from lumen.evaluation.keys import INTERVAL, metric_keys
from lumen.runs.directory import load_provenance
from lumen.runs.provenance import describe

# Licences of the models that LUMEN names, in the Hub's words, by a part of their id.
LICENCES = {"stable-diffusion-v1": "creativeml-openrail-m", "stable-diffusion-2": "openrail++"}
LOCAL_PATH = re.compile(r"(?<==)[/~]\S*")  # value of a command's key that names a place on one machine
OWN_LICENCE = "apache-2.0"  # of what is trained on scenes alone
FILE_CONFIGS = ', config=str(HERE / "base_configs")'  # of a base that is a single file, after its path
FILES = {
    "basis.safetensors": "the PCA basis of the layouts: mean, axes, variances",
    "layout.py": "program: photo to layout",
    "pipeline.py": "program: the pipeline with the seeds of `lumen sample`",
    "samples.png": "samples of validation images",
    "base/": "the small Stable Diffusion of LUMEN's scenes",
    "base_configs/": "the configs by which diffusers opens the file of Stable Diffusion",
    "backbone/": "the small backbone of LUMEN's scenes",
}


def write_card(
    directory: Path, run: Path, config: Config, results: dict[str, Any], facts: dict[str, Any], templates: Environment
) -> None:
    """Write README.md.

    Args:
        results: Content of metrics.json.
        facts: Facts of which the programs of the export are made.
    """
    provenance, base = load_provenance(run), _base_id(facts["base"])
    is_own = facts["base"].startswith("HERE")
    labels = conditionings.literal(config.conditioning["name"], "uses_labels", False)
    card = {
        "title": f"ControlNet on {describe(config)}",
        "base_name": base
        or ("the small Stable Diffusion in `base/`" if is_own else f"`{facts['base'].removesuffix(FILE_CONFIGS)}`"),
        "shown_base": '"base"' if is_own else facts["base"].replace(FILE_CONFIGS, ', config="base_configs"'),
        "data": config.data["name"],
        "layout_origin": "is made of a label map" if labels else "has no program of a single library",
        "files": {name: content for name, content in FILES.items() if (directory / name).exists()},
        "steps": results["steps"],
        "rows": metric_rows(results),
        "protocol": results.get("protocol", {}),
        "provenance": provenance | {"command": LOCAL_PATH.sub("DIR", provenance["command"])},
        "data_licence": data_licence(config),
    }
    metadata = metadata_of(card["title"], config, base, is_own, results)
    text = templates.get_template("README.md.j2").render(facts, **card)
    write(directory / "README.md", f"---\n{metadata.to_yaml()}\n---\n{text}")


def data_licence(config: Config) -> str:
    """Return a sentence about the licence of the data that a run learnt from; "" for data that is rendered."""
    return datamodules.literal(config.data["name"], "licence", "")


def metric_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of the run: key, name, value and the ends of the 95 % interval, if it has one."""
    keys = [key for key in metric_keys(results, "test") if not key.interval and key.part is None]
    return [
        {
            "key": key.metric,
            "name": metrics.literal(key.registry_name, "display_name", key.metric),
            "value": results[str(key)],
            "interval": results.get(f"{key}{INTERVAL}"),
        }
        for key in keys
    ]


def metadata_of(title: str, config: Config, base: str | None, is_own: bool, results: dict[str, Any]) -> ModelCardData:
    """Return what the Hub reads of a card: tags, licence, and the results as a model-index."""
    protocol, data = results.get("protocol", {}), config.data["name"]
    licences = [licence for part, licence in LICENCES.items() if part in (base or "")]
    return ModelCardData(
        model_name=title,
        library_name="diffusers",
        license=OWN_LICENCE if is_own and not data_licence(config) else next(iter(licences), None),
        base_model=base,
        tags=["controlnet", "stable-diffusion", "diffusers", "image-to-image", "lumen", config.conditioning["name"]],
        eval_results=[
            EvalResult(
                task_type="text-to-image",
                dataset_type=data,
                dataset_name=data,
                dataset_args={"protocol": protocol.get("hash"), "images": protocol.get("images")},
                metric_type=row["key"],
                metric_name=row["name"],
                metric_value=row["value"],
                metric_args={"interval_95": row["interval"]} if row["interval"] else None,
            )
            for row in metric_rows(results)
        ]
        or None,
    )


def _base_id(expression: str) -> str | None:
    """Return the id on the Hub of an expression such as '"USER/NAME", revision="COMMIT"'."""
    match = re.match(r'"([\w.-]+/[\w.-]+)", revision=', expression)
    return match[1] if match else None
