"""Training: tasks, callbacks, checkpoints, loggers, precomputed features."""
