"""Results as drawings: two metrics against one another, each with its intervals, and the way that training went."""

import io
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lumen.sweeps.results import Cell, Results

# One for each row, in the order of the table and the same in every drawing: matplotlib's own ten, which can be told
# apart on white and on black.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
INK = "#010203"  # what is written; a page puts the colour of its own text in its place
INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE = {
    "text.parse_math": False,  # a row may be called anything
    "svg.fonttype": "none",  # text stays text
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
} | dict.fromkeys(INKED, INK)
OUTSIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # where a legend is in no curve's way
SPACES = {"": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}


@rc_context(STYLE)
def curve(results: Results) -> Figure | None:
    """A dot per row at its figures in the two metrics of the curve, and a line through the rows in their order."""
    if not results.curve:
        return None
    first, second = (results.column(name)[0] for name in results.curve)
    rows = [name for name in first if name in second]
    figure, axes = _axes(5.6, 4)
    axes.plot([first[n].value for n in rows], [second[n].value for n in rows], color=INK, alpha=0.3, zorder=0)
    for name in rows:
        x, y, colour = first[name], second[name], colour_of(name, results)
        arms = {"xerr": _arms(x), "yerr": _arms(y), "ecolor": (colour, 0.4)}
        axes.errorbar(x.value, y.value, fmt="o", color=colour, label=name, zorder=1, **arms)
    axes.set(xlabel=results.curve[0], ylabel=results.curve[1])
    axes.legend(**OUTSIDE)  # names at the dots would cover one another
    return figure


@rc_context(STYLE)
def intervals(results: Results, column: str) -> Figure:
    """A dot per row with its 95 % interval; the anchors as lines, named among the rows."""
    lines, anchors = results.column(column)
    figure, axes = _axes(4.4, 0.7 + 0.26 * (len(lines) + len(anchors)))
    for height, (name, cell) in enumerate((lines | anchors).items()):
        colour = INK if name in anchors else colour_of(name, results)
        low, high = cell.interval or cell.range or (cell.value, cell.value)
        axes.plot([low, high], [height, height], color=colour, alpha=0.5, linewidth=3, solid_capstyle="round")
        axes.plot(cell.value, height, "|" if name in anchors else "o", color=colour)
        if name in anchors:
            axes.axvline(cell.value, color=INK, alpha=0.4, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(lines | anchors)), list(lines | anchors))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(column)
    return figure


@rc_context(STYLE)
def courses(runs: dict[str, list[dict[int, float]]], results: Results, label: str) -> Figure:
    """A figure of training by step: a line per run, in the colour of its row."""
    figure, axes = _axes(5.6, 3.2)
    for name, each in runs.items():
        for number, course in enumerate(each):
            named = {"label": name} if number == 0 else {}
            axes.plot(list(course), list(course.values()), ".-", color=colour_of(name, results), alpha=0.8, **named)
    axes.set(xlabel="step", ylabel=label)
    axes.legend(**OUTSIDE)
    return figure


def colour_of(row: str, results: Results) -> str:
    return COLOURS[list(results.lines).index(row) % len(COLOURS)]


@rc_context(STYLE)
def image(figure: Figure) -> Image.Image:
    """A drawing on white."""
    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@rc_context(STYLE)
def svg(figure: Figure, name: str) -> str:
    """A drawing to be put into an HTML page: on what is behind it, in the page's ink, its ids beginning with `name`."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True)
    for prefix, space in SPACES.items():
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # Who made it when, and a style sheet that would rule the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
        for key, value in parent.items():
            if key == "id":
                value = f"{name}-{value}"
            value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
            parent.set(key, f"#{name}-{value[1:]}" if key.endswith("}href") else value)
    return ElementTree.tostring(root, encoding="unicode")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _arms(cell: Cell) -> list[list[float]]:
    """How far an interval reaches below and above its figure; one that lies beside it reaches nowhere."""
    low, high = cell.interval or (cell.value, cell.value)
    return [[max(0.0, cell.value - low)], [max(0.0, high - cell.value)]]
