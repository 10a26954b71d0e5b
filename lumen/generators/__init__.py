"""Generators: one per file."""
