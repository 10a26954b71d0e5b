"""Docstrings in Google's style: a summary, text, and sections such as Args and Examples."""

import inspect
import re
from dataclasses import dataclass, field

TITLE = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?):")  # of a section, alone on its line
ENTRY = re.compile(r"([\w.=|-]+): +(.*)")


@dataclass(frozen=True)
class Docstring:
    """Parts of a docstring.

    Attributes:
        summary: First line.
        text: Paragraphs between the summary and the first section.
        sections: Lines of each section by its title.
    """

    summary: str
    text: str
    sections: dict[str, list[str]] = field(default_factory=dict)

    def entries(self, title: str) -> dict[str, str]:
        """Return the text of each entry `name: text` of a section."""
        entries: dict[str, str] = {}
        for line in self.sections.get(title, []):
            if match := ENTRY.fullmatch(line):
                entries[match[1]] = match[2]
            elif entries:
                entries[list(entries)[-1]] += f" {line.strip()}"
        return entries


def parse_docstring(docstring: str | None) -> Docstring:
    """Return the parts of a docstring."""
    lines = inspect.cleandoc(docstring or "").splitlines() or [""]
    text: list[str] = []
    sections: dict[str, list[str]] = {}
    for line in lines[1:]:
        if match := TITLE.fullmatch(line):
            sections[match[1]] = []
        elif sections and (line.startswith("    ") or not line):
            sections[list(sections)[-1]] += [line[4:]] if line else []
        else:
            text.append(line)
    return Docstring(lines[0], "\n".join(text).strip(), sections)
