"""Package outside of LUMEN with a task and a metric."""
