"""Benchmarks of the hot paths: `python -m benchmarks` runs all; docs/benchmarks.md explains."""
