"""The table of results, as it is printed and as it stands in the README."""

import json
from pathlib import Path
from typing import Any

from benchmarks._rows import rows

HEAD = """\
| row | peer | peer, CPU s | ours, CPU s | times faster | target | FLOPs | difference |
|---|---|---|---|---|---|---|---|"""
README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks: python -m benchmarks readme -->", "<!-- end of benchmarks -->"


def line(name: str, figures: dict[str, Any]) -> str:
    """A row of the table."""
    seconds, fewer = figures["cpu_seconds"], figures.get("times_fewer_flops")
    difference = f"{figures['relative_difference']:.0e}" if figures["relative_difference"] else "none"
    if (peer := figures.get("relative_difference_of_peer")) is not None:
        difference += f" (peer {peer:.0e})"
    cells = [
        f"`{name}`",
        figures["peer"],
        f"{seconds['peer']:.3g}",
        f"{seconds['ours']:.3g}",
        f"**{figures['times_faster']:.3g}**",
        f"{figures['target']:g}",
        f"÷ {fewer:.3g}" if fewer else "",
        difference if figures["passed"] else f"{difference}: FAILED",
    ]
    return f"| {' | '.join(cells)} |"


def section() -> str:
    """What stands between the two marks of the README: a table per device, and what each row times."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        kept = json.loads(path.read_text())
        every = sorted(kept["rows"].items())
        lines = [line(name, figures) for name, figures in every]
        days = sorted({figures["date"] for figures in kept["rows"].values()})
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        what = [f"- `{name}`: {figures['what']}{_missed(name, figures)}" for name, figures in every]
        parts.append("\n".join([f"{kept['device']}, one thread, {when}:", "", HEAD, *lines, "", *what]))
    return "\n\n".join(parts)


def _missed(name: str, figures: dict[str, Any]) -> str:
    """Why a row does not reach its target, and where its time goes."""
    if "profile" not in figures:
        return ""
    spent = sorted(figures["profile"].items(), key=lambda part: -part[1])
    times = ", ".join(f"`{function}` {share:.0%}" for function, share in spent)
    return f" Missed: {getattr(rows()[name.removesuffix('_script')], 'MISSED', 'by little')} (its time: {times})."


def inside(text: str) -> str:
    """What a README has between the two marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write() -> None:
    """Puts the table of the results into the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n\n{section()}\n\n{END}{rest.partition(END)[2]}")
