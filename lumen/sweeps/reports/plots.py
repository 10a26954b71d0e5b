"""Plots of results: two metrics against each other, intervals of one metric, learning curves."""

import io
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from PIL import Image

from lumen.sweeps.cell import Cell
from lumen.sweeps.results import Results

# One colour per row, in the order of the table and the same in every plot: matplotlib's ten, which are distinct on
# white and on black.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
INK = "#010203"  # colour of text and axes; a page replaces it by the colour of its own text
INK_KEYS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
STYLE = {
    "text.parse_math": False,  # the name of a row is plain text
    "svg.fonttype": "none",  # text stays text
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
} | dict.fromkeys(INK_KEYS, INK)
LEGEND_OUTSIDE = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}  # beside the axes, where it covers no curve
DPI = 150  # of PNG files
MIN_SPAN = 0.02  # of an axis, as a share of its values
XML_NAMESPACES = {"": "http://www.w3.org/2000/svg", "xlink": "http://www.w3.org/1999/xlink"}


@rc_context(STYLE)
def plot_curve(results: Results) -> Figure | None:
    """Plot a dot per row at its values of the two metrics of the curve, and a line through the rows in their order."""
    if not results.curve_columns:
        return None
    first, second = (results.column(name)[0] for name in results.curve_columns)
    rows = [name for name in first if name in second]
    plot, axes = _axes(5.6, 4)
    axes.plot([first[n].value for n in rows], [second[n].value for n in rows], color=INK, alpha=0.3, zorder=0)
    for name in rows:
        x, y, colour = first[name], second[name], row_colour(name, results)
        bars = {"xerr": _error_bars(x), "yerr": _error_bars(y), "ecolor": (colour, 0.4)}
        axes.errorbar(x.value, y.value, fmt="o", color=colour, label=name, zorder=1, **bars)
    names = dict(zip(results.columns, results.headings, strict=True))
    axes.set(xlabel=names[results.curve_columns[0]], ylabel=names[results.curve_columns[1]])
    _tidy(axes.xaxis, axes.yaxis)
    axes.legend(**LEGEND_OUTSIDE)  # labels at the dots would cover one another
    return plot


@rc_context(STYLE)
def plot_intervals(results: Results, column: str) -> Figure:
    """Plot a dot per row with its 95 % interval, and reference rows as lines."""
    rows, reference_rows = results.column(column)
    plot, axes = _axes(4.4, 0.7 + 0.26 * (len(rows) + len(reference_rows)))
    for height, (name, cell) in enumerate((rows | reference_rows).items()):
        colour = INK if name in reference_rows else row_colour(name, results)
        low, high = cell.interval or cell.range or (cell.value, cell.value)
        axes.plot([low, high], [height, height], color=colour, alpha=0.5, linewidth=3, solid_capstyle="round")
        axes.plot(cell.value, height, "|" if name in reference_rows else "o", color=colour)
        if name in reference_rows:
            axes.axvline(cell.value, color=INK, alpha=0.4, linestyle=":", linewidth=1, zorder=0)
    axes.set_yticks(range(len(rows | reference_rows)), list(rows | reference_rows))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(dict(zip(results.columns, results.headings, strict=True))[column])
    _tidy(axes.xaxis)
    return plot


@rc_context(STYLE)
def plot_learning_curves(curves: dict[str, list[dict[int, float]]], results: Results, label: str) -> Figure:
    """Plot a value of training by step: a line per run, in the colour of its row.

    Args:
        curves: Values by step, of each seed of each row.
        label: Name of the value.
    """
    plot, axes = _axes(5.6, 3.2)
    for name, row_curves in curves.items():
        for number, curve in enumerate(row_curves):
            legend = {"label": name} if number == 0 else {}
            axes.plot(list(curve), list(curve.values()), ".-", color=row_colour(name, results), alpha=0.8, **legend)
    axes.set(xlabel="step", ylabel=label)
    _tidy(axes.xaxis, axes.yaxis)
    axes.legend(**LEGEND_OUTSIDE)
    return plot


def row_colour(row: str, results: Results) -> str:
    """Return the colour of a row in all plots of a table."""
    return COLOURS[list(results.rows).index(row) % len(COLOURS)]


@rc_context(STYLE)
def to_image(plot: Figure) -> Image.Image:
    """Return a plot on white."""
    plot.set_dpi(DPI)
    canvas = FigureCanvasAgg(plot)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


@rc_context(STYLE)
def to_svg(plot: Figure, name: str) -> str:
    """Return a transparent plot for an HTML page, in the colour of its text, with ids that begin with `name`."""
    file = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        plot.savefig(file, format="svg", transparent=True)
    for prefix, space in XML_NAMESPACES.items():
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # The date would differ each time; the style sheet would apply to the whole page.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
        for key, value in parent.items():
            if key == "id":
                value = f"{name}-{value}"
            value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
            parent.set(key, f"#{name}-{value[1:]}" if key.endswith("}href") else value)
    return ElementTree.tostring(root, encoding="unicode")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    plot = Figure(figsize=(width, height), layout="constrained")
    return plot, plot.subplots()


def _tidy(*lines: Axis) -> None:
    """Label axes with whole numbers instead of an offset, and widen those whose values are almost equal."""
    for axis in lines:
        axis.set_major_formatter(ScalarFormatter(useOffset=False))
        low, high = axis.get_view_interval()
        middle, half = (low + high) / 2, max(high - low, MIN_SPAN * max(abs(low), abs(high))) / 2
        axis.set_view_interval(middle - half, middle + half, ignore=True)


def _error_bars(cell: Cell) -> list[list[float]]:
    """Return the distances from a value to the ends of its interval; 0 if the value lies outside it."""
    low, high = cell.interval or (cell.value, cell.value)
    return [[max(0.0, cell.value - low)], [max(0.0, high - cell.value)]]
