"""Where a launch on CPU tensors can go besides machine code of the host: one package each."""
