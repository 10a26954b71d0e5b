"""State of a session: what clicks do to a canvas, what a link holds, and which uploads are stored."""

import os
import shlex
import time
from dataclasses import replace
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
from PIL import Image

from lumen.config.experiment import load
from lumen.core.errors import BadConfig, BadSample, Mistake
from lumen.studio.canvas import MAX_UNDO, Canvas
from lumen.studio.folder import MAX_SECONDS, StudioFolder
from lumen.studio.settings import Settings


@pytest.fixture
def canvas():
    return Canvas.of_layout(torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "studio").mkdir()
    return StudioFolder(tmp_path / "studio")


def test_two_clicks_select_a_rectangle_that_a_third_one_moves(canvas):
    selected = canvas.click("rectangle", (1, 1), 1, 0.8).click("rectangle", (2, 3), 1, 0.8)
    assert int(selected.region.sum()) == 6 and selected.corner is None
    moved = selected.click("move", (4, 6), 1, 0.8)
    assert torch.equal(moved.layout[:, 3:5, 5:8], canvas.layout[:, 1:3, 1:4]) and moved.region[3:5, 5:8].all()
    copied = selected.click("copy", (4, 6), 1, 0.8)
    assert torch.equal(copied.layout[:, 1:3, 1:4], canvas.layout[:, 1:3, 1:4])
    assert torch.equal(moved.undo().layout, canvas.layout) and canvas.undo() is canvas
    assert len(canvas.history) == 1 and not canvas.region.any()  # a canvas never changes


def test_edits_without_a_selection_or_paint_are_refused(canvas):
    selected = canvas.click("brush", (99, -5), 0, 0.8)
    assert selected.region.nonzero().tolist() == [[5, 0]]
    for edit in (canvas.erase, canvas.mirror, lambda: canvas.place((0, 0), True), selected.fill):
        with pytest.raises(Mistake, match="choose"):
            edit()
    painted = selected.click("pick", (2, 2), 1, 0.8).fill()
    assert torch.equal(painted.layout[:, 5, 0], canvas.layout[:, 2, 2])
    with pytest.raises(BadConfig, match="shape"):
        canvas.load(torch.zeros(2, 6, 8), "other.npy")


def test_components_are_weighed_without_a_change_of_the_edits(canvas):
    weighed = canvas.weigh(2, [1, 3], {1: -1.5})
    assert weighed.gains.tolist() == [-1.5, 0, 0] and torch.equal(weighed.edited, canvas.edited)
    assert torch.equal(weighed.weigh(3, [1, 2, 3], {}).layout, canvas.layout)


def test_history_is_bounded(canvas):
    selected = canvas.click("brush", (0, 0), 0, 0.8)
    for _ in range(MAX_UNDO + 5):
        selected = selected.erase()
    assert len(selected.history) == MAX_UNDO


def test_links_hold_settings_and_refuse_what_the_studio_has_not_written():
    config = load("scenes", [])
    settings = Settings.of_config(config)
    assert settings.overrides(config) == []
    name = f"photo-{'0' * 16}.png"
    changed = Settings(name, "", 'a "red" house & more', "rain", 7, 2.5, 9, 0.5, "crop")
    assert settings.read_query(dict(parse_qsl(changed.query("runs/a").removeprefix("?")))) == changed
    own = Settings.of_config(load("scenes", ["sampling.negative=rain"]))
    cleared = replace(own, negative="")
    words = parse_qsl(cleared.query("runs/a").removeprefix("?"), keep_blank_values=True)
    assert own.read_query(dict(words)) == cleared != own
    for query in ({"photo": "../../etc/passwd"}, {"layout": "layout-1.npy/.."}, {"seed": "x"}, {"fit": "other"}):
        with pytest.raises(BadConfig, match="link"):
            settings.read_query(query)


def test_commands_name_what_differs_from_the_run(tmp_path):
    config = load("scenes", [])
    settings = Settings("photo.png", "layout.npy", "a house; rm x", "", 3, config.sampling.guidance, 20)
    words = shlex.split(settings.command("scenes", config, tmp_path))
    assert words[:5] == ["lumen", "sample", "scenes", str(tmp_path / "photo.png"), "a house; rm x"]
    assert words[5:] == ["sampling.steps=20", "seed=3", f"layout={tmp_path / 'layout.npy'}", "out=samples/"]
    config = load("scenes", flags := ["sampling.sampler=ddim", "sampling.steps=9"])
    words = shlex.split(settings.command("scenes", config, tmp_path, flags))
    assert words[5:9] == [*flags, "sampling.steps=20", "seed=3"]  # of two values the last one counts


def test_uploads_are_stored_by_content_and_verified(folder, tmp_path, monkeypatch):
    Image.new("RGB", (9, 7), "red").save(tmp_path / "one.jpg")
    content = (tmp_path / "one.jpg").read_bytes()
    name = folder.add_photo(tmp_path / "one.jpg")
    assert folder.find(name).read_bytes() == content
    bad = {"cut.jpg": content[:300], "text.png": b"no picture", "script.svg": b"<svg onload='x'/>", "empty.jpg": b""}
    for bad_name, data in bad.items():
        (tmp_path / bad_name).write_bytes(data)
        with pytest.raises(BadSample, match=rf"{bad_name} is .*upload it again"):
            folder.add_photo(tmp_path / bad_name)
    for limit, words in (("MAX_PIXELS", "million pixels"), ("MAX_BYTES", "MB")):
        monkeypatch.setattr(f"lumen.studio.folder.{limit}", 10)
        Image.new("RGB", (9, 7)).save(tmp_path / "huge.png")
        with pytest.raises(BadSample, match=rf"huge\.png has more than .*{words}"):
            folder.add_photo(tmp_path / "huge.png")
    assert [path.name for path in folder.directory.iterdir()] == [name]


def test_stored_files_stay_as_long_as_somebody_uses_them(folder):
    pixels, layout = torch.zeros(3, 8, 8), torch.zeros(3, 4, 5)
    photo, name = folder.add_image(pixels), folder.add_layout(layout)
    uses = [lambda: (folder.find(photo), folder.find(name)),
            lambda: (folder.add_image(pixels), folder.add_layout(layout))]  # fmt: skip
    for use in uses:
        age_files(folder.directory)
        use()
        folder.prune()
        assert {path.name for path in folder.directory.iterdir()} == {photo, name}
    age_files(folder.directory)
    folder.prune()
    assert not list(folder.directory.iterdir())
    for removed in (photo, name):
        with pytest.raises(BadSample, match="removed"):
            folder.find(removed)


def age_files(directory):
    """Have the files of a folder look as if nobody had used them for two hours."""
    for path in directory.iterdir():
        os.utime(path, (0, time.time() - 2 * MAX_SECONDS))


def test_stored_images_and_layouts_are_read_to_the_bit(folder):
    pixels = torch.arange(3 * 8 * 8).reshape(3, 8, 8).float() / 127.5 - 1
    with Image.open(folder.find(folder.add_image(pixels))) as picture:
        assert torch.equal(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1, pixels)
    layout = torch.randn(3, 4, 5)
    name = folder.add_layout(layout)
    assert torch.equal(folder.load_layout(name), layout) and folder.add_layout(layout.clone()) == name
