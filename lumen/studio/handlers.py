"""Handlers of the page's events: from the values of components to those of others."""

import html
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from lumen.core.errors import BadConfig, Mistake
from lumen.runs.layout_files import load_layout
from lumen.studio.canvas import Canvas
from lumen.studio.loaded_run import LoadedRun
from lumen.studio.settings import Settings
from lumen.studio.studio import NO_PHOTO, Studio

MAX_SEED = 2**31 - 1
NETWORKS = {"concurrency_id": "networks", "concurrency_limit": 1}  # of events that use networks
SELECT = "Choose what a click does, then click on the layout."
CORNER = "Click on the opposite corner of the rectangle."
COLOURS = (1, 2, 3)  # components that are red, green and blue at first


def explain(function: Callable) -> Callable:
    """Return a handler of an event that shows the sentence of a mistake in the page."""

    @wraps(function)
    def call(*arguments: Any) -> Any:
        with _explain_mistakes():
            return function(*arguments)

    return call


def explain_stream(function: Callable) -> Callable:
    """Return a handler that yields, and shows the sentence of a mistake in the page."""

    def iterate(*arguments: Any) -> Iterator[Any]:
        with _explain_mistakes():
            yield from function(*arguments)

    # gradio streams what is visibly a generator. A lambda stays one where the types of all other functions are checked.
    return lambda *arguments: (yield from iterate(*arguments))


@contextmanager
def _explain_mistakes() -> Iterator[None]:
    try:
        yield
    except Mistake as mistake:
        # The page shows it as HTML, and a link or the name of an upload may hold any.
        message = html.escape(str(mistake), quote=False)
        raise gr.Error(message, duration=None, print_exception=False) from None


def describe_share(shares: list[float] | None, count: int) -> str:
    """Return a sentence about the variance that the first components explain."""
    if shares is None:
        return "This layout has no components that were sorted by their variance."
    return f"The first {count} explain {sum(shares[:count]):.1%} of the variance of all {len(shares)}."


class Handlers:
    """Handlers of events. `words` are the values of the settings and of the three colours, in the order of the page.

    Args:
        studio: Runs and files.
    """

    def __init__(self, studio: Studio):
        self.studio = studio

    # ---- what all events read and renew

    def read(self, words: tuple) -> tuple[str, Settings, tuple[int, int, int]]:
        """Return run, settings and colours."""
        run, photo, prompt, negative, seed, guidance, steps, control_end, fit, *colours = words
        settings = Settings(photo, "", prompt, negative, int(seed or 0), guidance, int(steps), control_end, fit)
        return run, settings, tuple(int(k) - 1 for k in colours)

    def renew(self, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return the canvas and all that shows it: picture, components, note, file, command, link.

        Raises:
            BadConfig: There is no photo yet.
        """
        if canvas is None:
            raise BadConfig(NO_PHOTO)
        name, _, colours = self.read(words)
        run, count = self.studio.run(name), int(canvas.region.sum())
        colours = tuple(min(k, len(canvas.gains) - 1) for k in colours)
        note = (
            CORNER if canvas.corner else f"{count} of {canvas.region.numel()} cells are selected." if count else SELECT
        )
        file = str(self.studio.folder.find(self.studio.folder.add_layout(canvas.layout)))
        store = self.studio.folder.add_picture
        picture = store(run.visualize(canvas.layout, canvas.region, colours))
        tiles = [(store(tile), title) for tile, title in run.tiles(canvas.layout)]
        return [canvas, picture, tiles, note, file, *self.recipe(canvas, *words)]

    def recipe(self, canvas: Canvas | None, *words: Any) -> list[str]:
        """Return command and link."""
        if canvas is None:
            return ["", ""]
        name, settings, _ = self.read(words)
        settings, run = self.studio.store(canvas, settings), self.studio.run(name)
        command = settings.command(name, run.config, self.studio.folder.directory, run.flags)
        return [command, self.find_address() + settings.query(name)]

    def find_address(self) -> str:
        """Return the address of the page as the browser knows it: a container, or a proxy before it, has another."""
        request = LocalContext.request.get(None)
        origin = request and request.headers.get("origin")
        return f"{origin}/" if origin else self.studio.address

    # ---- photos and runs

    def restore(self, request: gr.Request) -> list[Any]:
        """Return what a link holds, or a held-out image: values of run, image and settings, of `open`, and parts."""
        query = dict(request.query_params)
        name = query.get("run", next(iter(self.studio.runs)))
        run, image_id = self.studio.run(name), None
        settings = Settings.of_config(run.config)
        if query.get("photo"):
            settings = settings.read_query(query)
        elif ids := run.held_out_ids(1):
            image_id = ids[0]
            photo, caption = self.studio.open_held_out(name, image_id)
            settings = replace(settings, photo=photo, prompt=caption)
        values = [settings.prompt, settings.negative, settings.seed, settings.guidance, settings.steps]
        values += [settings.control_end, settings.fit]
        images, parts = gr.update(choices=run.held_out_ids(), value=image_id), self._parts(run)
        first = [gr.update(choices=list(self.studio.runs), value=name), images, *values]
        if not settings.photo:
            return [*first, "", None, *[None] * 5, "", "", *parts]
        canvas = self.studio.canvas(name, settings)
        return [*first, *self._open(canvas, (name, settings.photo, *values, *COLOURS)), *parts]

    def open_upload(self, upload: str, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return what shows an uploaded photo."""
        return self._open_photo(self.studio.folder.add_photo(Path(upload)), canvas, words)

    def open_held_out(self, image_id: str, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return the caption of a held-out image, and what shows the image."""
        photo, caption = self.studio.open_held_out(words[0], image_id)
        return [caption, *self._open_photo(photo, canvas, (*words[:2], caption, *words[3:]))]

    def open_again(self, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return what shows the photo, made square in another way."""
        return self._open_photo(words[1], canvas, words)

    def open_new(self, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return what shows the photo by another run."""
        return self._open_photo(words[1], None, words)

    def open_run(self, name: str) -> list[Any]:
        """Return a run's held-out images, the components of its layouts, and its classes."""
        run = self.studio.run(name)
        return [gr.update(choices=run.held_out_ids(), value=None), *self._parts(run)]

    def _parts(self, run: LoadedRun) -> list[Any]:
        """Return what belongs to a run: the components of its layouts, none of them weighed, and its classes."""
        numbers = list(range(1, run.num_components + 1))
        colours = [gr.update(choices=numbers, value=min(k, len(numbers))) for k in COLOURS]
        count = gr.update(maximum=max(2, len(numbers)), value=len(numbers))
        enabled, component = gr.update(choices=numbers, value=numbers), gr.update(choices=numbers, value=1)
        share, classes = describe_share(run.explained, len(numbers)), gr.update(choices=run.class_names, value=None)
        return [count, share, enabled, component, 1, {}, *colours, classes]

    def _open_photo(self, photo: str, before: Canvas | None, words: tuple) -> list[Any]:
        words = (words[0], photo, *words[2:])
        name, settings, _ = self.read(words)
        canvas = self.studio.canvas(name, settings)
        return self._open(replace(canvas, gains=before.gains) if before else canvas, words)

    def _open(self, canvas: Canvas, words: tuple) -> list[Any]:
        name, settings, _ = self.read(words)
        return [settings.photo, self.studio.show_photo(name, settings), *self.renew(canvas, *words)]

    # ---- edits

    def click(
        self, event: gr.SelectData, tool: str, radius: float, likeness: float, canvas: Canvas | None, *words: Any
    ) -> list[Any]:
        """Return the canvas after a click on the picture of the layout."""
        if canvas is None:
            raise BadConfig(NO_PHOTO)
        x, y = event.index
        factor = self.studio.run(words[0]).cell_pixels(canvas.layout)
        return self.renew(canvas.click(tool, (int(y) // factor, int(x) // factor), radius, likeness), *words)

    def press(
        self, row: float, column: float, tool: str, radius: float, likeness: float, canvas: Canvas | None, *words: Any
    ) -> list[Any]:
        """Return the canvas after a click on a cell, which is named by its row and column, from 1."""
        if canvas is None:
            raise BadConfig(NO_PHOTO)
        cell = int(row or 1) - 1, int(column or 1) - 1
        return self.renew(canvas.click(tool, cell, radius, likeness), *words)

    def change(self, edit: Callable[[Canvas], Canvas]) -> Callable[..., list[Any]]:
        """Return the handler of an edit."""

        def handle(canvas: Canvas | None, *words: Any) -> list[Any]:
            return self.renew(canvas and edit(canvas), *words)

        return handle

    def paint_class(self, name: str | None, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return the canvas with the selection painted by the mean vector of a class."""
        vectors = self.studio.run(words[0]).class_vectors
        if name not in vectors:
            raise BadConfig(f"choose a class first; held-out images show: {', '.join(vectors) or 'none'}.")
        return self.renew(canvas and canvas.fill(vectors[name]), *words)

    def paste(self, upload: str, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return the canvas with the selected cells of the layout of another photo."""
        name, settings, _ = self.read(words)
        other = replace(settings, photo=self.studio.folder.add_photo(Path(upload)))
        return self.renew(canvas and canvas.paste(self.studio.canvas(name, other).edited), *words)

    def load_file(self, upload: str, canvas: Canvas | None, *words: Any) -> list[Any]:
        """Return the canvas with the layout of an uploaded file."""
        path = Path(upload)
        layout = load_layout(path)[0]
        return self.renew(canvas and canvas.load(layout, path.name), *words)

    def weigh(
        self,
        count: int,
        enabled: list[int],
        component: int,
        gain: float,
        gains: dict,
        canvas: Canvas | None,
        *words: Any,
    ) -> list[Any]:
        """Return a sentence about the components that count, all gains, and the canvas with them."""
        gains = gains | {int(component): float(gain)}
        canvas = canvas and canvas.weigh(int(count), [int(k) for k in enabled], gains)
        share = describe_share(self.studio.run(words[0]).explained, int(count))
        return [share, gains, *self.renew(canvas, *words)]

    def read_gain(self, component: int, gains: dict) -> float:
        """Return the gain of a component."""
        return gains.get(int(component), 1.0)

    # ---- samples

    def stream(self, keeps_seed: bool, canvas: Canvas | None, *words: Any) -> Iterator[list[Any]]:
        """Yield seed, samples as they are generated, command and link."""
        if canvas is None:
            raise BadConfig(NO_PHOTO)
        name, settings, _ = self.read(words)
        seed = settings.seed if keeps_seed else random.randrange(MAX_SEED)
        recipe = self.recipe(canvas, *words[:4], seed, *words[5:])
        settings = self.studio.store(canvas, replace(settings, seed=seed))
        for pictures in self.studio.stream(name, settings):
            yield [seed, [self.studio.folder.add_picture(picture) for picture in pictures], *recipe]
