"""The forecast of a run as people read it: `lumen show EXPERIMENT --cost`."""

import torch

from lumen.config.schema import Config
from lumen.runs.cost.estimate import CACHED, Cost, cost
from lumen.runs.cost.hardware import GPUS, REACHED, present, this_cpu

NAMES = {"vae": "autoencoder", "text_encoder": "text encoder", "unet": "U-Net", "unet, backward": "U-Net, backward",
         "controlnet": "ControlNet", "controlnet, backward": "ControlNet, backward"}  # fmt: skip
DOING = {"update": "while AdamW updates", "layout": "while layouts are made", "latents": "while images are encoded",
         "forward": "at the end of the forward pass", "backward": "in the backward pass",
         "picture": "while pictures are drawn"}  # fmt: skip


def bill(config: Config) -> str:
    """All that is known of a run before it is started, a table per question."""
    found = cost(config)
    return "\n\n".join(
        "\n".join(_aligned(rows)) for rows in (
            _head(config, found), _parameters(found), _flops(config, found), _memory(found), _disk(config, found),
            _time(config, found),
        )
    )  # fmt: skip


def _head(config: Config, found: Cost) -> list[list[str]]:
    source = f" of {config.backbone['name']}" if "backbone" in found.parameters else ""
    rows = [[
        f"{config.experiment}: {config.conditioning['name']}{source}, {config.size} px, {config.batch} images at once, "
        f"{_together(config)} a step, {config.steps} steps"
    ]]  # fmt: skip
    if found.uncounted:
        rows.append([f"the networks of {found.uncounted} are not counted"])
    return rows


def _parameters(found: Cost) -> list[list[str]]:
    *frozen, learns = found.parameters.items()
    rows = [[NAMES.get(name, name), f"{n / 1e6:.1f}", "frozen" if n else "shared"] for name, n in frozen]
    return [["parameters", "million", ""], *rows, [NAMES[learns[0]], f"{learns[1] / 1e6:.1f}", "learns"]]


def _flops(config: Config, found: Cost) -> list[list[str]]:
    rows = [
        [NAMES.get(part, part), f"{n / 1e9:.1f}", "-" if part in CACHED else f"{n / 1e9:.1f}"]
        for part, n in found.flops.items()
    ]
    step = _together(config)
    return [
        ["training, GFLOP", "anew", "cached"],
        *rows,
        ["an image", f"{found.image / 1e9:.1f}", f"{found.cached / 1e9:.1f}"],
        ["a step", f"{found.image * step / 1e9:.1f}", f"{found.cached * step / 1e9:.1f}"],
        ["the run, PFLOP", *(f"{n * step * config.steps / 1e15:.3g}" for n in (found.image, found.cached))],
    ]


def _memory(found: Cost) -> list[list[str]]:
    rows = [[NAMES.get(name, name), _gib(n)] for name, n in found.held.items() if n]
    most = max(found.peaks, key=found.peaks.get)
    return [
        [f"device memory in {found.precision}, computed", "GiB"],
        *rows,
        *([f"most {DOING[name]}", _gib(n)] for name, n in found.peaks.items()),
        ["the peak", _gib(found.peaks[most]), "and 0.5 to 1 that CUDA keeps for itself"],
    ]


def _disk(config: Config, found: Cost) -> list[list[str]]:
    number = found.images if found.images is not None else 1000
    whose = "images of the training split" if found.images is not None else "images (the data set is not here)"
    looks = f" x {found.looks} looks" if found.looks != 1 else ""
    checkpoints = config.keep + 1 + (config.best is not None)  # the new one is there before an old one goes
    return [
        ["disk", "GB"],
        [f"cache of latents and layouts: {number} {whose}{looks}", _gb(found.kept * found.looks * number)],
        [f"checkpoints: {checkpoints} of {_gb(found.checkpoint)}", _gb(checkpoints * found.checkpoint)],
    ]


def _time(config: Config, found: Cost) -> list[list[str]]:
    """For the FLOPs of training alone, each device with its own share of them."""
    images = config.steps * config.batch * config.accumulate
    rows = [["training time", "least, cached", "usual, cached", "usual, anew"]]
    mine = present()
    for name in [mine] if mine else GPUS if config.accelerator != "cpu" else []:
        peak = GPUS[name].single if found.precision == "32-true" else GPUS[name].half
        least = images * found.cached / peak
        usual = (" - ".join(_span(images * n / peak / share) for share in REACHED) for n in (found.cached, found.image))
        rows.append([f"{name}: {peak / 1e12:.0f} TFLOP/s by its data sheet", _span(least), *usual])
    if not torch.cuda.is_available():
        rate = this_cpu()
        least = f"{_span(images * found.cached / rate)}"
        rows.append([f"this CPU: {rate / 1e9:.0f} GFLOP/s, measured on a product", least])
    low, high = (f"{share:.0%}" for share in reversed(REACHED))
    said = f"least: at all of it. Usual: at {low} to {high}, as published for A100s; small networks and batches: less."
    return [*rows, [said]]


def _together(config: Config) -> int:
    return config.batch * config.accumulate * config.devices * config.nodes


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Words to the left, figures to the right; a row of one cell is a sentence."""
    count = max(map(len, rows))
    widths = [max((len(row[i]) for row in rows if len(row) > max(i, 1)), default=0) for i in range(count)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip() if rest else first)
    return lines
