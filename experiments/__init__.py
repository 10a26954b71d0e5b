"""Experiments as YAML files of differences from base.yaml, and the tables made of them."""
