"""Evaluation of a trained task: generated images, their scores, and what they are compared with."""
