"""Reports of a table: text, plots, HTML, W&B."""
