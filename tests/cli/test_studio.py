"""Studio through its HTTP interface: photos, edits, samples, links, and two sessions that do not mix."""

import re
import shlex
import shutil
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from lumen.__main__ import main
from lumen.runs import shipped

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EDIT = [8, 1, 0.8]  # radius and likeness of tools follow the cell


def test_studio_without_a_run_says_what_to_do_if_none_comes_with_lumen(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "SHIPPED_RUN", tmp_path / "missing")
    assert main(["studio"]) == 2
    assert "lumen train scenes" in (message := capsys.readouterr().err) and message.count("\n") == 1


@contextmanager
def serving(names, folder):
    """Serve the page of a studio; yield the studio, and the function that opens a session of it."""
    from gradio_client import Client

    from lumen.studio.page import Page
    from lumen.studio.server import launch
    from lumen.studio.studio import Studio

    studio = Studio(names, ["accelerator=cpu"], folder)
    page = Page(studio, folder / "runs")
    studio.address = launch(page.blocks, "127.0.0.1", None)
    with closing(page.blocks):
        yield studio, lambda: Session(Client(studio.address, verbose=False))


class Session:
    """Session of the page, as a program that knows its names of events has it."""

    def __init__(self, client):
        self.client = client
        run, _, *values = client.predict(api_name="/restore")[:9]
        self.words = [run, *values, 1, 2, 3]

    def call(self, event, *arguments):
        """Call an event, and return its results."""
        return self.client.predict(*arguments, *self.words, api_name=f"/{event}")

    def link(self, event, *arguments):
        """Call an event, and return the link that it shows."""
        return self.call(event, *arguments)[-1]

    def draw(self):
        """Return the pixels of the samples, and the command."""
        _, pictures, command, _ = self.call("draw", True)
        return [read(picture["image"]) for picture in pictures], command


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.long
def test_page_shows_edits_and_samples_as_the_command_makes_them(finished, photo, workdir, monkeypatch):
    gradio_client = pytest.importorskip("gradio_client")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(workdir / "gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with serving([str(finished)], workdir) as (_, open_session):
        session, other = open_session(), open_session()
        before = other.link("clear")
        _, _, tiles, _, _, _, link = session.call("open_photo", gradio_client.handle_file(photo))
        assert len(tiles) == 20 and "layout=" not in link and link.startswith("http://127.0.0.1:")
        first, _ = session.draw()
        assert "layout=layout-" in session.link("weigh", 1, list(range(1, 21)), 1, 1.0)
        session.call("click", 1, 1, "rectangle", *EDIT[1:])
        *_, note, _, command, link = session.call("click", 2, 2, "rectangle", *EDIT[1:])
        assert note == "4 of 16 cells are selected." and "layout=layout-" in link and shlex.split(command)[-1]
        session.link("erase")
        pictures, command = session.draw()
        assert main([*shlex.split(command)[1:-1], "out=again/"]) == 0
        assert all((x == read(f"again/{number}.png")).all() for number, x in enumerate(pictures[:1]))
        session.link("undo")
        assert "layout=" not in session.link("weigh", 20, list(range(1, 21)), 1, 1.0)
        assert all((a == b).all() for a, b in zip(first, session.draw()[0], strict=True))
        assert other.link("clear") == before != link
        (workdir / "broken.jpg").write_bytes(photo.read_bytes()[:400])
        with pytest.raises(Exception, match=r"broken.jpg is (damaged|no photo).*upload it again"):
            session.call("open_photo", gradio_client.handle_file(workdir / "broken.jpg"))


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_page_in_a_browser_sends_nothing_elsewhere_and_needs_no_mouse(finished, photo, workdir, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(workdir / "gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    (workdir / "broken.jpg").write_bytes(photo.read_bytes()[:400])
    hosts: set[str] = set()
    with serving([str(finished)], workdir) as (studio, _), playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        first, second = browser.new_page(), browser.new_page()
        for page in (first, second):
            page.set_default_timeout(300_000)
            page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
            page.goto(studio.address)
            page.locator("#samples img").nth(3).wait_for()
        assert first.locator("#tiles img").count() == 20 and hosts - {None} == {"127.0.0.1"}
        first.locator("#upload input").set_input_files(workdir / "broken.jpg")
        first.get_by_text("broken.jpg is").wait_for()
        command = second.locator("#command textarea")
        before = command.input_value()
        tab_to(first, "document.activeElement.type == 'radio'")
        tab_to(first, "document.activeElement.innerText.includes('Paint, paste')")
        first.keyboard.press("Enter")
        tab_to(first, "document.activeElement.innerText == 'Click there'")
        first.keyboard.press("Enter")
        first.get_by_text("cells are selected").wait_for()
        tab_to(first, "document.activeElement.innerText == 'Erase'", "Shift+Tab")
        first.keyboard.press("Enter")
        playwright.expect(first.locator("#command textarea")).to_have_value(re.compile("layout="), timeout=300_000)
        assert command.input_value() == before  # of the other tab
        browser.close()


def tab_to(page, condition, key="Tab"):
    """Move the focus by the keyboard until a condition of it holds."""
    for _ in range(120):
        page.keyboard.press(key)
        if page.evaluate(condition):
            return
    raise AssertionError(f"the keyboard does not reach where {condition}")
