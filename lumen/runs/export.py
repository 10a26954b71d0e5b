"""Export of a trained run: a folder that diffusers opens without LUMEN, with programs and a model card."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from lumen.config.schema import Config
from lumen.core.console import announce
from lumen.core.errors import BadConfig, Mistake
from lumen.core.files import write
from lumen.core.random import stable_seed
from lumen.diffusion.loading import save_file_configs
from lumen.diffusion.sampling import SAMPLERS
from lumen.diffusion.single_file import opener
from lumen.features.pretrained import SCENES_WEIGHTS
from lumen.runs.build import build_task
from lumen.runs.checkpoints import restore, select_checkpoint
from lumen.runs.data import build_data
from lumen.runs.directory import load_results
from lumen.runs.hub import upload, verify_repository
from lumen.runs.model_card import data_licence, write_card

Weights = Literal["averaged", "raw"]
SNAPSHOT = re.compile(r".*/models--([^/]+?)--([^/]+)/snapshots/([^/]+)")  # folder of a hub id in the hub's own cache


def export_run(run: Path, config: Config, out: Path, weights: Weights = "averaged", push: str | None = None) -> None:
    """Write a trained run to a folder for other programs, and upload it if a repository is named.

    Args:
        weights: Averaged weights, where the run had an EMA, or those of the optimiser.
        push: Repository on the Hub, as USER/NAME.

    Raises:
        Mistake: The folder exists, or cannot be written.
        BadConfig: The run is not finished, or no other program opens what it has learnt.
    """
    results = load_results(run)
    if results is None:
        raise BadConfig(f"{run} is not finished; repeat its lumen train command, then export it.")
    if out.exists():
        raise Mistake(f"{out} is there already; choose another folder, or remove this one.")
    if config.diffusion.weights == "none":
        raise BadConfig(
            f"{run} steers an untrained diffusion model (diffusion.weights=none), which no other program has; export "
            "a run with trained weights."
        )
    if push is not None:
        verify_repository(push)
    task = build_task(config, build_data(config))
    is_averaged = restore(task, select_checkpoint(run, config), weights == "averaged")
    with _draft(out) as draft:
        facts = task.export(draft, config.size, WeightsFolder(draft))
        if (run / "grid.png").exists():
            shutil.copyfile(run / "grid.png", draft / "samples.png")
        facts["opener"] = opener(task.source)
        facts |= _settings(config) | {"weights": "averaged" if is_averaged else "raw"}
        templates = Environment(
            loader=PackageLoader("lumen.runs"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
        )
        write(draft / "pipeline.py", templates.get_template("pipeline.py.j2").render(facts))
        write_card(draft, run, config, results, facts, templates)
    if not facts["has_layout"]:
        announce(f"layout.py is left out: no single library makes the layouts of {config.conditioning['name']}.")
    if push is not None:
        licence = data_licence(config)
        private = ["samples.png"] if licence else []
        if licence:
            announce(f"samples.png is not uploaded, because it shows images of {config.data['name']}. {licence}")
        print(f"uploaded: {upload(out, push, private)}")


class WeightsFolder:
    """Place of the weights of frozen networks, as a Python expression in an export's programs.

    The small networks of scenes are copied, those of the hub named by their commit, and folders by their path, as are
    single files, beside the configs that diffusers opens them with.

    Args:
        directory: Folder of the export.
    """

    def __init__(self, directory: Path):
        self.directory = directory

    def __call__(self, source: str, name: str) -> str:
        """Return the expression for a folder of weights, whose copy would have this name."""
        if Path(source).is_relative_to(SCENES_WEIGHTS):
            shutil.copytree(source, self.directory / name, dirs_exist_ok=True)
            return f'HERE / "{name}"'
        if match := SNAPSHOT.fullmatch(source):
            user, repository, commit = match.groups()
            pinned = f'"{user}/{repository}", revision="{commit}"'
            patterns = 'allow_patterns=["*.json", "*.safetensors"]'
            return pinned if name == "base" else f"snapshot_download({pinned}, {patterns})"
        path = Path(source).absolute()
        announce(f"the programs name {path} by its path; change it there before others use them.")
        if path.is_file():
            save_file_configs(path, self.directory / f"{name}_configs")
            return f'{str(path)!r}, config=str(HERE / "{name}_configs")'
        if name == "base" and not (path / "model_index.json").is_file():
            announce(
                f"{path} has no model_index.json, without which diffusers does not open it; copy that of a pipeline of "
                "Stable Diffusion there before the programs run."
            )
        return repr(str(path))


def sample_seeds(config: Config) -> list[int]:
    """Return the seeds of the images that `lumen sample` makes, one generator each."""
    return [stable_seed(config.seed, "sample", number) for number in range(config.sampling.images)]


def _settings(config: Config) -> dict[str, Any]:
    """Return what the programs and the card say about the config."""
    options, scheduler = config.sampling, SAMPLERS[config.sampling.sampler].__name__
    defaults = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    defaults |= {"negative_prompt": options.negative} if options.negative else {}
    defaults |= {"control_guidance_end": options.control_end} if options.control_end < 1 else {}
    vae = config.diffusion.vae
    classes = ["ControlNetModel", scheduler, "StableDiffusionControlNetPipeline", *(["AutoModel"] if vae else [])]
    return {
        "defaults": json.dumps(defaults),  # text and numbers are written alike in Python
        "scheduler": scheduler,
        "spacing": ', timestep_spacing="trailing"' if options.steps == 1000 else "",  # as the sampler of LUMEN has it
        "vae": f", vae=AutoModel.from_pretrained({vae!r})" if vae else "",
        "imports": ", ".join(sorted(classes)),
        "size": config.size,
        "images": options.images,
        "seed": config.seed,
        "seeds": sample_seeds(config),
        "conditioning": config.conditioning["name"],
        "prompt": "a red house",
    }


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that gets its name at the end; after an error nothing remains.

    Raises:
        Mistake: It cannot be written.
    """
    draft = out.parent / f".lumen-{os.uname().nodename}-{secrets.token_hex(8)}.part"
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(out)
    except OSError as error:
        raise Mistake(f"{out} could not be written: {error.strerror or error}; choose another folder.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
