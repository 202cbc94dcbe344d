"""Benchmarks, run by `make bench` and `bench/gpu.sh` and never by plain `pytest`.

Every bench judges what was computed before it times it, and stands in the results with the roof
that was measured in the same run. `python -m bench.report` makes table and picture of the results.
"""
