"""Commands of `lumen`, one file per group."""
