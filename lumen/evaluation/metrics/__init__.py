"""Metrics of generated images and predictions, one file per metric."""
