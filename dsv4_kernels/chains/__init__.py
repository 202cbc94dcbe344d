"""Whole layers: which segments in which order, and the functions that a server calls."""
