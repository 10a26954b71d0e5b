"""Text of the cost estimate: `lumen show EXPERIMENT --cost`."""

from lumen.config.schema import Config
from lumen.runs.cost.estimate import Cost, estimate_cost
from lumen.runs.cost.evaluation import estimate_evaluation, evaluator_flops
from lumen.runs.cost.hardware import CPU, TYPICAL_UTILISATION, list_devices
from lumen.runs.provenance import describe


def format_cost(config: Config) -> str:
    """Return the cost estimate of a run, one table per question."""
    cost = estimate_cost(config)
    return "\n\n".join(
        "\n".join(_aligned(rows)) for rows in (
            _head(config, cost), _parameters(cost), _flops(config, cost), _memory(cost), _disk(config, cost),
            _time(config, cost), _evaluation(config),
        ) if rows
    )  # fmt: skip


def _head(config: Config, cost: Cost) -> list[list[str]]:
    rows = [[
        f"{config.experiment}: {describe(config)}, {config.size} px, {config.batch} images at once, "
        f"{_step_images(config)} a step, {config.steps} steps"
    ]]  # fmt: skip
    if cost.uncounted:
        rows.append([f"the networks of {cost.uncounted} are not counted"])
    return rows


def _parameters(cost: Cost) -> list[list[str]]:
    *frozen, (trained, count) = cost.parameters.items()
    rows = [[cost.display_names.get(name, name), f"{n / 1e6:.1f}", "frozen" if n else "shared"] for name, n in frozen]
    rows.append([cost.display_names.get(trained, trained), f"{count / 1e6:.1f}", "trained"])
    return [["parameters", "million", ""], *rows]


def _flops(config: Config, cost: Cost) -> list[list[str]]:
    rows = [
        [cost.display_names.get(part, part), f"{n / 1e9:.1f}", "-" if part in cost.cached_parts else f"{n / 1e9:.1f}"]
        for part, n in cost.flops.items()
    ]
    step = _step_images(config)
    return [
        ["training, GFLOP", "uncached", "cached"],
        *rows,
        ["an image", f"{cost.image / 1e9:.1f}", f"{cost.cached / 1e9:.1f}"],
        ["a step", f"{cost.image * step / 1e9:.1f}", f"{cost.cached * step / 1e9:.1f}"],
        ["the run, PFLOP", *(f"{n * step * config.steps / 1e15:.3g}" for n in (cost.image, cost.cached))],
    ]


def _memory(cost: Cost) -> list[list[str]]:
    rows = [[cost.display_names.get(name, name), _gib(n)] for name, n in cost.held.items() if n]
    most = max(cost.peaks, key=cost.peaks.get)
    return [
        [f"device memory in {cost.precision}, computed", "GiB"],
        *rows,
        *([f"most {cost.phase_names.get(name, name)}", _gib(n)] for name, n in cost.peaks.items()),
        ["the peak", _gib(cost.peaks[most]), "and 0.5 to 1 that CUDA keeps for itself"],
    ]


def _disk(config: Config, cost: Cost) -> list[list[str]]:
    number = cost.images if cost.images is not None else 1000
    whose = "images of the training split"
    if not cost.is_data_here:
        published = "" if cost.images is None else ", as published"
        whose = f"images{published} (the data set is not here)"
    views = f" x {cost.views} views" if cost.views != 1 else ""
    checkpoints = config.keep + 1 + (config.best is not None)  # the new one is there before an old one goes
    sets, set_bytes = len(cost.precomputed), sum(cost.precomputed.values())
    generated = [
        f"generated before training: {number:,} images{views} x {sets} sets",
        _gb(set_bytes * cost.views * number),
    ]
    return [
        ["disk", "GB"],
        [f"cache: {number:,} {whose}{views}", _gb(cost.cache_bytes * cost.views * number)],
        *([generated] if sets else []),
        [f"checkpoints: {checkpoints} of {_gb(cost.checkpoint)}", _gb(checkpoints * cost.checkpoint)],
    ]


def _time(config: Config, cost: Cost) -> list[list[str]]:
    """Return the time for the FLOPs of training, by device."""
    images = config.steps * config.batch * config.accumulate
    rows = [["training time", "least, cached", "usual, cached", "usual, uncached"]]
    for name, peak in list_devices(config.accelerator, cost.precision).items():
        usual = (
            " - ".join(format_span(images * n / peak / share) for share in TYPICAL_UTILISATION)
            for n in (cost.cached, cost.image)
        )
        rows.append([name, format_span(images * cost.cached / peak), *([] if name.startswith(CPU) else usual)])
    low, high = (f"{share:.0%}" for share in reversed(TYPICAL_UTILISATION))
    note = f"least: at all of it. Usual: at {low} to {high}, as published for A100s; small networks and batches: less."
    return [*rows, [note]]


def _evaluation(config: Config) -> list[list[str]]:
    """Return the PFLOP of generating and of scoring the images of each row of the evaluation, if there is one."""
    if not (costs := estimate_evaluation(config)):
        return []
    lines = [[row.label, f"{row.images:,}", _pflop(row.generating), _pflop(row.scoring)] for row in costs]
    _, counts, generating, scoring, _ = zip(*costs, strict=True)
    lines.append(["all rows", f"{sum(counts):,}", _pflop(sum(generating)), _pflop(sum(scoring))])
    unknown = [name for name, arguments in config.metrics.items() if evaluator_flops(name, arguments) is None]
    notes = [[f"the networks of {', '.join(unknown)} are not counted"]] if unknown else []
    if shared := [row.label for row in costs if row.is_shared]:
        notes.append([f"once for all runs of a table: {', '.join(shared)}"])
    return [["evaluation, PFLOP", "images", "generating", "scoring"], *lines, *notes]


def _step_images(config: Config) -> int:
    return config.batch * config.accumulate * config.devices * config.nodes


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _pflop(count: int) -> str:
    return f"{count / 1e15:.3g}"


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g}"


def format_span(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return lines with the first cell to the left and numbers to the right; a row of one cell is a sentence."""
    count = max(map(len, rows))
    widths = [max((len(row[i]) for row in rows if len(row) > max(i, 1)), default=0) for i in range(count)]
    lines = []
    for first, *numbers in rows:
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=False)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip() if numbers else first)
    return lines
