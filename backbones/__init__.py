"""Frozen foundation models that give dense features; one file each."""
