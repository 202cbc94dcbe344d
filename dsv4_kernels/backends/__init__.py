"""Triton backends that start with triton-ascend's own front half."""
