"""The Ascend compiler's verdict on every kernel, without an NPU: ``python -m dsv4_kernels ascend``.

| file           | what it does                                                                   |
|----------------|--------------------------------------------------------------------------------|
| compiler.py    | one launch -> final HIVM IR, by triton-ascend's front half and their compiler  |
| launches.py    | the parts, and the launches of one chunk for one of them                       |
| memory.py      | cores, memory and double buffering, read off the IR                            |
| counts.py      | bytes, multiplications and instructions, counted by walking the IR             |
| slicing.py     | what these counts depend on, cut out of the IR's scalar code                   |
| library.py     | the compiler's library functions, by what a call of one counts as              |
| execute.py     | launches on CPU tensors, run as that IR on a model of the cores                |
| against_cpu.py | every segment so executed, compared with the CPU path                          |
| gate.py        | all of that held against what each segment claims                              |
| layers.py      | what attention moves, counted by kind of layer with the indices that one has   |
| layer_table.py | the same as a table, and the bounds that it is held to                         |
| first_form.py  | what the form that this project began with moved, their baseline               |
"""
