"""Tables of runs: trials, launchers, results, reports."""
