"""Frozen foundation models that yield dense features; one file each."""
