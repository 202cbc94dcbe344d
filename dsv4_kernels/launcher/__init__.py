"""Runs a chain: its dependencies, lanes, executors, clocks, memory and waves."""
