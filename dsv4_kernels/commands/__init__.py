"""The commands, a file or folder each: ``python -m dsv4_kernels COMMAND``."""
