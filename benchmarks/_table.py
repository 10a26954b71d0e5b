"""Table of results, as printed and as a section of docs/performance.md."""

import json
from pathlib import Path
from typing import Any

from benchmarks import real
from benchmarks._rows import load_rows

HEAD = """\
| row | peer | peer, CPU s | ours, CPU s | times faster | target | FLOPs | difference |
|---|---|---|---|---|---|---|---|"""
REAL_HEAD = """\
| row | peer | peer, CPU s | ours, CPU s | times faster | target | FLOPs | peer, peak GB | ours, peak GB | difference |
|---|---|---|---|---|---|---|---|---|---|"""
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
RESULTS = Path(__file__).parent / "results"
REAL_INTRODUCTION = """\
### At real widths

`python -m benchmarks real` runs rows at the widths of Stable Diffusion 1.5 and DINOv2-B, at 256 px. On a quiet machine,
a row should take at most four minutes. The peer and ours take turns on one copy of the frozen networks, which are
untrained. The peak is the memory of the whole process; these networks take 4.6 GB of it."""
BEGIN, END = "<!-- benchmarks: python -m benchmarks readme -->", "<!-- end of benchmarks -->"


def format_row(name: str, result: dict[str, Any]) -> str:
    """Return a row of the table."""
    return f"| {' | '.join([*_format_speed(name, result), _format_difference(result)])} |"


def format_real_row(name: str, result: dict[str, Any]) -> str:
    """Return a row of the table at real widths."""
    peaks = [f"{result['peak_bytes'][side] / 1e9:.4g}" for side in ("peer", "ours")]
    return f"| {' | '.join([*_format_speed(name, result), *peaks, _format_difference(result)])} |"


def _format_speed(name: str, result: dict[str, Any]) -> list[str]:
    """Return the cells up to the ratio of operations."""
    seconds, flop_ratio = result["cpu_seconds"], result.get("times_fewer_flops")
    return [
        f"`{name}`",
        result["peer"],
        f"{seconds['peer']:.3g}",
        f"{seconds['ours']:.3g}",
        f"**{result['times_faster']:.3g}**",
        f"{result['target']:g}",
        f"÷ {flop_ratio:.3g}" if flop_ratio else "",
    ]


def _format_difference(result: dict[str, Any]) -> str:
    difference = f"{result['relative_difference']:.0e}" if result["relative_difference"] else "none"
    if (peer := result.get("relative_difference_of_peer")) is not None:
        difference += f" (peer {peer:.0e})"
    return difference if result["passed"] else f"{difference}: FAILED"


def format_section() -> str:
    """Return the section between the two markers: tables per device, and a description of each row."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        parts.append(_format_table(content["device"], content["rows"]))
        if rows := content.get("real"):
            parts.append(f"{REAL_INTRODUCTION}\n\n{_format_real_table(content['device'], rows)}")
    return "\n\n".join(parts)


def _format_table(device: str, results: dict[str, Any]) -> str:
    rows, modules = sorted(results.items()), load_rows()
    table = [format_row(name, result) for name, result in rows]
    reasons = {name: getattr(modules[name.removesuffix("_script")], "BOTTLENECK", "by little") for name, _ in rows}
    descriptions = [
        f"- `{name}`: {result['what']}{_format_others(result)}{_note_conditions(result)}"
        f"{_explain_missed_target(reasons[name], result)}"
        for name, result in rows
    ]
    return "\n".join([f"{device}, one thread, {_format_period(results)}:", "", HEAD, *table, "", *descriptions])


def _format_real_table(device: str, results: dict[str, Any]) -> str:
    rows = [(name, results[name]) for name in real.ROWS if name in results]
    table = [format_real_row(name, result) for name, result in rows]
    descriptions = [
        f"- `{name}`: {result['what']}{_note_conditions(result)}"
        f"{_explain_missed_target(real.ROWS[name].bottleneck, result)}"
        for name, result in rows
    ]
    return "\n".join([f"{device}, one thread, {_format_period(results)}:", "", REAL_HEAD, *table, "", *descriptions])


def _format_period(results: dict[str, Any]) -> str:
    dates = sorted({result["date"] for result in results.values()})
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _note_conditions(result: dict[str, Any]) -> str:
    """Return notes on a row that was timed once, and on one whose thread had to wait for a core."""
    once, beside = result["rounds"] == 1, result.get("beside_other_work")
    return " Timed once." * once + " Measured beside other work." * bool(beside)


def _format_others(result: dict[str, Any]) -> str:
    """Return time and difference of further peers."""
    return "".join(
        f" {name.capitalize()}: {other['cpu_seconds']:.3g} CPU s, difference {other['relative_difference']:.0e}."
        for name, other in result.get("other_peers", {}).items()
    )


def _explain_missed_target(reason: str, result: dict[str, Any]) -> str:
    """Return why a row misses its target, and its profile."""
    if "profile" not in result:
        return ""
    shares = sorted(result["profile"].items(), key=lambda item: -item[1])
    times = ", ".join(f"`{function}` {share:.0%}" for function, share in shares)
    return f" Target missed: {reason} (profile: {times})."


def extract_section(text: str) -> str:
    """Return the text of a page between the two markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write_section() -> None:
    """Replace the section of the page."""
    before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{format_section()}\n\n{END}{after.partition(END)[2]}", encoding="utf-8")
