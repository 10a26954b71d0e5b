"""Launchers: ways to run the trials of a table, one file each.

A launcher returns when all trials have ended, or when it has handed them over and set their state to "submitted".
"""
