"""Interfaces, registry and small libraries that every other package builds on."""
