"""Benchmarks: where time goes, measured beside a peer in the same process; never part of the tests."""
