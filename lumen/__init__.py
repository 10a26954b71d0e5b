"""LUMEN: label-free neural semantic image synthesis, as an experiment framework."""

__version__ = "0.1.0"
