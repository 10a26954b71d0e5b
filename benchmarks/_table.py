"""Table of results, as printed and as a section of docs/performance.md."""

import json
from pathlib import Path
from typing import Any

from benchmarks._rows import load_rows

HEAD = """\
| row | peer | peer, CPU s | ours, CPU s | times faster | target | FLOPs | difference |
|---|---|---|---|---|---|---|---|"""
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks: python -m benchmarks readme -->", "<!-- end of benchmarks -->"


def format_row(name: str, result: dict[str, Any]) -> str:
    """Return a row of the table."""
    seconds, flop_ratio = result["cpu_seconds"], result.get("times_fewer_flops")
    difference = f"{result['relative_difference']:.0e}" if result["relative_difference"] else "none"
    if (peer := result.get("relative_difference_of_peer")) is not None:
        difference += f" (peer {peer:.0e})"
    cells = [
        f"`{name}`",
        result["peer"],
        f"{seconds['peer']:.3g}",
        f"{seconds['ours']:.3g}",
        f"**{result['times_faster']:.3g}**",
        f"{result['target']:g}",
        f"÷ {flop_ratio:.3g}" if flop_ratio else "",
        difference if result["passed"] else f"{difference}: FAILED",
    ]
    return f"| {' | '.join(cells)} |"


def format_section() -> str:
    """Return the section between the two markers: a table per device, and a description of each row."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = sorted(content["rows"].items())
        dates = sorted({result["date"] for _, result in rows})
        period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        table = [format_row(name, result) for name, result in rows]
        descriptions = [
            f"- `{name}`: {result['what']}{_format_others(result)}{_explain_missed_target(name, result)}"
            for name, result in rows
        ]
        parts.append("\n".join([f"{content['device']}, one thread, {period}:", "", HEAD, *table, "", *descriptions]))
    return "\n\n".join(parts)


def _format_others(result: dict[str, Any]) -> str:
    """Return time and difference of further peers."""
    return "".join(
        f" {name.capitalize()}: {other['cpu_seconds']:.3g} CPU s, difference {other['relative_difference']:.0e}."
        for name, other in result.get("other_peers", {}).items()
    )


def _explain_missed_target(name: str, result: dict[str, Any]) -> str:
    """Return why a row misses its target, and its profile."""
    if "profile" not in result:
        return ""
    shares = sorted(result["profile"].items(), key=lambda item: -item[1])
    times = ", ".join(f"`{function}` {share:.0%}" for function, share in shares)
    reason = getattr(load_rows()[name.removesuffix("_script")], "BOTTLENECK", "by little")
    return f" Target missed: {reason} (profile: {times})."


def extract_section(text: str) -> str:
    """Return the text of a page between the two markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write_section() -> None:
    """Replace the section of the page."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{format_section()}\n\n{END}{after.partition(END)[2]}", encoding="utf-8")
