"""Page of the studio, in gradio: reference, layout and samples in three columns, and tabs that compare."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from lumen.studio.canvas import TOOLS, Canvas
from lumen.studio.folder import MAX_SECONDS
from lumen.studio.handlers import MAX_SEED, NETWORKS, SELECT, Handlers, describe_share, explain, explain_stream
from lumen.studio.server import PRUNE_SECONDS
from lumen.studio.settings import Settings
from lumen.studio.studio import Studio

PHOTO_TYPES = [".jpg", ".jpeg", ".png", ".webp"]
HELP = (
    "**Layout**: what a network sees in the photo, one square per patch. Squares of like colour look alike to the "
    "network. Change the layout, press **Generate**, and the samples follow it."
)


class Page:
    """Components of the page, and what their events do.

    Args:
        studio: Runs and files.
        add_tabs: Function that adds further tabs.
    """

    def __init__(self, studio: Studio, add_tabs: Callable[["Page"], None]):
        self.handlers = Handlers(studio)
        self.first = next(iter(studio.runs.values()))
        # Gradio removes uploads, and its copies of pictures, as the studio's folder removes what is its own.
        cache = (PRUNE_SECONDS, MAX_SECONDS)
        with gr.Blocks(
            title="LUMEN studio", analytics_enabled=False, fill_width=True, delete_cache=cache
        ) as self.blocks:
            self.canvas, self.photo = gr.State(None), gr.State("")
            gr.Markdown(f"# LUMEN studio\n{HELP}")
            self.run = gr.Dropdown(list(studio.runs), value=self.first.name, label="Run")
            with gr.Tabs() as self.tabs:
                with gr.Tab("Studio", id="studio"):
                    with gr.Row():
                        for add_column in (self._add_reference, self._add_layout, self._add_samples):
                            with gr.Column(min_width=280):
                                add_column()
                    self._add_recipe()
                add_tabs(self)
            self._bind()

    # ---- columns

    def _add_reference(self) -> None:
        gr.Markdown("### 1. Photo")
        self.image = gr.Image(label="Photo", interactive=False, format="png", buttons=[], elem_classes="pixels")
        self.upload = gr.UploadButton("Upload a photo", file_types=PHOTO_TYPES, elem_id="upload")
        self.held_out = gr.Dropdown(self.first.held_out_ids(), label="or an image that no training has seen")
        self.fit = gr.Radio(["stretch", "crop", "pad"], value="stretch", label="If it is no square")

    def _add_layout(self) -> None:
        gr.Markdown("### 2. Layout")
        self.picture = gr.Image(
            label="Layout", interactive=False, format="png", buttons=[], elem_id="layout", alt_text="the layout"
        )
        self.note = gr.Markdown(SELECT)
        self.tool = gr.Radio([(words, key) for key, words in TOOLS.items()], value="similar", label="A click will")
        with gr.Row():
            self.likeness = gr.Slider(0, 1, 0.8, step=0.01, label="How alike")
            self.radius = gr.Slider(0, 8, 1, step=0.5, label="Brush size")
        with gr.Row():
            names = ["Erase", "Mirror", "Undo", "Clear selection"]
            self.erase, self.mirror, self.undo, self.clear = (
                gr.Button(name, size="sm", min_width=90) for name in names
            )
        with gr.Accordion("Paint, paste, and click by keyboard", open=False):
            with gr.Row():
                self.classes = gr.Dropdown(list(self.first.class_names), label="Class")
                self.fill_class = gr.Button("Paint the selection as this class", size="sm")
            self.fill = gr.Button("Paint the selection like the picked cell", size="sm")
            self.second = gr.UploadButton("Paste the selection from a second photo", file_types=PHOTO_TYPES, size="sm")
            with gr.Row():
                self.row, self.column = (gr.Number(1, label=name, precision=0) for name in ("Row", "Column"))
                self.press = gr.Button("Click there", size="sm")
            with gr.Row():
                self.save = gr.DownloadButton("Save the layout (.npy)", size="sm")
                self.load = gr.UploadButton("Load a layout (.npy)", file_types=[".npy"], size="sm")
        self._add_components()

    def _add_components(self) -> None:
        count, shares = self.first.num_components, self.first.explained
        numbers = list(range(1, count + 1))
        with gr.Accordion("Components", open=False):
            self.count = gr.Slider(1, max(2, count), count, step=1, label="Components that count, strongest first")
            self.share = gr.Markdown(describe_share(shares, count))
            self.enabled = gr.CheckboxGroup(numbers, value=numbers, label="Switched on")
            with gr.Row():
                self.component = gr.Dropdown(numbers, value=1, label="Component")
                self.gain = gr.Slider(-3, 3, 1, step=0.1, label="its gain")
            self.gains = gr.State({})
            with gr.Row():
                values = [min(k, count) for k in (1, 2, 3)]
                colours = zip(("Red", "Green", "Blue"), values, strict=True)
                self.colours = [gr.Dropdown(numbers, value=k, label=name, min_width=60) for name, k in colours]
            self.tiles = gr.Gallery(
                label="Each component", columns=3, height="auto", format="png", elem_id="tiles", elem_classes="pixels"
            )

    def _add_samples(self) -> None:
        defaults = Settings.of_config(self.first.config)
        gr.Markdown("### 3. Samples")
        self.samples = gr.Gallery(
            label="Samples", columns=2, height="auto", format="png", elem_id="samples", elem_classes="pixels"
        )
        self.prompt = gr.Textbox(label="Prompt", lines=2, submit_btn=False, elem_id="prompt")
        self.generate = gr.Button("Generate", variant="primary", elem_id="generate")
        with gr.Row():
            self.seed = gr.Number(defaults.seed, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            self.lock = gr.Checkbox(True, label="keep the seed")
        runs = [Settings.of_config(run.config) for run in self.handlers.studio.runs.values()]  # they may go beyond
        low, high = min(1, *(run.guidance for run in runs)), max(15, *(run.guidance for run in runs))
        with gr.Accordion("More settings", open=False):
            self.negative = gr.Textbox(defaults.negative, label="Not in the picture")
            self.guidance = gr.Slider(low, high, defaults.guidance, step=0.1, label="Closeness to the prompt")
            self.steps = gr.Slider(1, max(100, *(run.steps for run in runs)), defaults.steps, step=1, label="Steps")
            self.control_end = gr.Slider(0, 1, defaults.control_end, step=0.05, label="Layout steers until")

    def _add_recipe(self) -> None:
        gr.Markdown("### These samples again")
        self.command = gr.Textbox(label="Command", buttons=["copy"], interactive=False, elem_id="command")
        self.link = gr.Textbox(label="Link, which works while the studio runs", buttons=["copy"], interactive=False)

    # ---- events

    @property
    def settings(self) -> list[gr.components.Component]:
        """Components that hold the run and the settings, as `Handlers.read` reads them."""
        return [self.run, self.photo, self.prompt, self.negative, self.seed, self.guidance, self.steps,
                self.control_end, self.fit]  # fmt: skip

    @property
    def view(self) -> list[gr.components.Component]:
        """Components that `Handlers.renew` renews."""
        return [self.canvas, self.picture, self.tiles, self.note, self.save, self.command, self.link]

    @property
    def parts(self) -> list[gr.components.Component]:
        """Components that show what belongs to a run, besides its held-out images."""
        weights = [self.count, self.share, self.enabled, self.component, self.gain, self.gains]
        return [*weights, *self.colours, self.classes]

    def _bind(self) -> None:
        do, shared = self.handlers, [self.canvas, *self.settings, *self.colours]
        opened = [self.photo, self.image, *self.view]
        outputs = [self.seed, self.samples, self.command, self.link]
        generate = {"fn": explain_stream(do.stream), "inputs": [self.lock, *shared], "outputs": outputs, **NETWORKS}
        first = [self.run, self.held_out, *self.settings[2:]]
        restored = [*first, *opened, *self.parts]
        self.blocks.load(explain(do.restore), None, restored, api_name="restore", **NETWORKS).success(
            api_visibility="private", **generate
        )
        gr.on([self.generate.click, self.prompt.submit], api_name="generate", trigger_mode="always_last", **generate)
        self._on(self.upload.upload, do.open_upload, [self.upload, *shared], opened, "open_photo")
        self._on(
            self.held_out.input, do.open_held_out, [self.held_out, *shared], [self.prompt, *opened], "open_held_out"
        )
        self._on(self.fit.input, do.open_again, shared, opened, "open_again")
        self.follow(self.run)
        self._bind_edits(shared)

    def follow(self, source: gr.components.Component | gr.events.Dependency) -> None:
        """Open the photo by another run when one is chosen, or when an event has chosen it."""
        opened = [self.photo, self.image, *self.view]
        event, do = getattr(source, "success", None) or source.input, self.handlers
        self._on(event, do.open_run, [self.run], [self.held_out, *self.parts], None).success(
            explain(do.open_new),
            [self.canvas, *self.settings, *self.colours],
            opened,
            api_visibility="private",
            **NETWORKS,
        )

    def _bind_edits(self, shared: list) -> None:
        do, click = self.handlers, [self.tool, self.radius, self.likeness]
        self._on(self.picture.select, do.click, [*click, *shared], self.view, None)
        self._on(self.press.click, do.press, [self.row, self.column, *click, *shared], self.view, "press")
        changes = {"erase": Canvas.erase, "mirror": Canvas.mirror, "undo": Canvas.undo, "clear": Canvas.clear}
        for name, change in {**changes, "fill": Canvas.fill}.items():
            self._on(getattr(self, name).click, do.change(change), shared, self.view, name)
        self._on(self.fill_class.click, do.paint_class, [self.classes, *shared], self.view, "paint_class")
        self._on(self.second.upload, do.paste, [self.second, *shared], self.view, "paste")
        self._on(self.load.upload, do.load_file, [self.load, *shared], self.view, "load_layout")
        weights = [self.count, self.enabled, self.component, self.gain, self.gains]
        gr.on(  # sliders may move many times a second, and only where they end counts
            [self.count.input, self.enabled.input, self.gain.input], explain(do.weigh), [*weights, *shared],
            [self.share, self.gains, *self.view], api_name="weigh", show_progress="hidden",
            trigger_mode="always_last", **NETWORKS,
        )  # fmt: skip
        self.component.input(do.read_gain, [self.component, self.gains], self.gain, api_visibility="private")
        for colour in self.colours:
            self._on(colour.input, do.renew, shared, self.view, None)
        texts = (self.prompt, self.negative, self.seed, self.guidance, self.steps, self.control_end)
        gr.on(
            [x.change for x in texts], explain(do.recipe), shared, [self.command, self.link], show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def _on(self, event: Callable, handler: Callable, inputs: list, outputs: list, name: str | None) -> Any:
        """Bind an event; other programs call it by its name, if it has one."""
        visibility = {"api_name": name} if name else {"api_visibility": "private"}
        return event(explain(handler), inputs, outputs, show_progress="minimal", **visibility, **NETWORKS)
