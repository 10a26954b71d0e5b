"""Commands that make pictures: the studio, a page in the browser."""

from lumen.cli.command import as_overrides, command, read_option


@command("studio", "[RUN ... host=127.0.0.1 port=PORT runs=DIR key=value ...]")
def studio(positionals: list[str], options: dict[str, str]) -> int:
    """Open a page in which layouts are seen, edited and compared; it answers this machine alone.

    Without a RUN it takes the ControlNet of `scenes` that comes with LUMEN, if the installation has it. Uploads are
    removed after an hour, and at the end. Ctrl-C ends it.

    Options:
        host: Address to serve at; 0.0.0.0 serves other machines too.
        port: Port; by default the first free one from 7860 on.
        runs: Directory whose runs the page lists; `runs` by default.

    Examples:
        lumen studio
        lumen studio runs/scenes/default/seed0 runs/scenes/backbone=clip/seed0
    """
    from lumen.core.paths import user_path
    from lumen.runs.directory import load_run_config
    from lumen.runs.shipped import SHIPPED_NAME, find_run
    from lumen.studio.server import launch, prepare_folder, wait_for_end

    host, root = options.pop("host", "127.0.0.1"), user_path(options.pop("runs", "runs"))
    port = read_option("port", options.pop("port"), "Annotated[int, Range(1, 65_535)]") if "port" in options else None
    names = positionals or [SHIPPED_NAME]
    for name in names:
        load_run_config(find_run(name))  # before anything heavy is imported
    with prepare_folder() as folder:
        from lumen.studio.studio import Studio
        from lumen.studio.tabs import build_page

        state = Studio(names, as_overrides(options), folder)
        page = build_page(state, root)
        state.address = launch(page.blocks, host, port)
        print(f"studio: {state.address}", flush=True)
        try:
            wait_for_end(state.folder.prune)
        finally:
            page.blocks.close(verbose=False)
    return 0
