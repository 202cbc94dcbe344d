"""Triton backends that start with triton-ascend's own front half, and a model of Ascend's cores."""
