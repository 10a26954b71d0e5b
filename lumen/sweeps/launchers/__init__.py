"""Where the runs of a table are made: one file per launcher.

A launcher returns when all trials have ended, or when it has handed them over and marked them "sent".
"""
