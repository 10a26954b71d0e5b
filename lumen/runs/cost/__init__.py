"""Cost estimate of a run before it starts."""
