"""Conditionings: the layouts that can steer the ControlNet; one file each."""
