"""Files that describe the package to other programs: the lock of uv, CITATION.cff, the Dockerfile."""

import configparser
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import lumen

ROOT = Path(__file__).parents[1]
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements() -> dict[str, list[Requirement]]:
    """Return the requirements of setup.cfg by extra; "" are those of every installation."""
    extras = {"": setup_cfg()["options"]["install_requires"], **setup_cfg()["options.extras_require"]}
    return {extra: [Requirement(line) for line in text.splitlines() if line] for extra, text in extras.items()}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def lock() -> dict[str, Any]:
    return tomllib.loads((ROOT / "uv.lock").read_text())


def test_lock_has_an_allowed_version_of_every_requirement(lock):
    versions: dict[str, list[str]] = {}
    for package in lock["package"]:
        versions.setdefault(package["name"], []).append(package.get("version", "0"))
    for requirement in [r for group in requirements().values() for r in group]:
        locked = versions.get(normalized(requirement.name), [])
        assert locked, f"{requirement} is not in uv.lock; run uv lock"
        assert all(requirement.specifier.contains(version) for version in locked), (requirement, locked)


def test_lock_was_made_of_the_requirements_of_setup_cfg(lock):
    project = next(package for package in lock["package"] if package["name"] == "lumen")
    locked = {
        (
            entry["name"],
            SpecifierSet(entry.get("specifier", "")),
            "".join(re.findall(r"'(.*)'", entry.get("marker", ""))),
        )
        for entry in project["metadata"]["requires-dist"]
    }
    declared = {
        (normalized(requirement.name), requirement.specifier, extra)
        for extra, group in requirements().items()
        for requirement in group
    }
    assert locked == declared
    assert set(project["metadata"]["provides-extras"]) == requirements().keys() - {""}


def test_lock_names_no_index_but_the_public_one():
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"https?://([^/\"]+)", text)) == PUBLIC_HOSTS
    assert set(re.findall(r"registry = \"([^\"]+)\"", text)) == {"https://pypi.org/simple"}
    assert "file:" not in text


def test_lock_and_pyproject_agree_on_the_name_and_the_pythons(lock):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == setup_cfg()["metadata"]["name"]
    assert project["requires-python"] == lock["requires-python"]
    declared_in_setup_cfg = {"version", "description", "readme", "license", "dependencies", "optional-dependencies"}
    assert declared_in_setup_cfg | {"scripts"} == set(project["dynamic"])


def test_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == lumen.__version__
    assert citation["license"] == setup_cfg()["metadata"]["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys() and paper["year"] == 2024
    assert paper["identifiers"][0]["value"] == "arXiv:2407.01790" and paper["url"].endswith("/2407.01790")
    assert "2407.01790" in (ROOT / "README.md").read_text()


def test_dockerfile_installs_this_tree_and_starts_lumen():
    text = (ROOT / "Dockerfile").read_text()
    python = re.search(r"^FROM python:([\d.]+)-slim$", text, re.MULTILINE)[1]
    pythons = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(pythons).contains(python)
    command = re.search(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)[1]
    assert f"{command} = " in setup_cfg()["options.entry_points"]["console_scripts"]
    assert "COPY . ." in text and "install --no-cache-dir .\n" in text
