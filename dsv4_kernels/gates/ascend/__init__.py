"""The Ascend compiler's verdict on every kernel, without an NPU: ``python -m dsv4_kernels ascend``.

| file        | what it does                                                                      |
|-------------|-----------------------------------------------------------------------------------|
| compiler.py | one launch -> final HIVM IR, by triton-ascend's front half and bishengir-compile  |
| launches.py | the parts, and the launches of one chunk for one of them                          |
| plan.py     | cores, memory and double buffering, read off the IR                               |
| counts.py   | bytes, multiplications and instructions, counted by walking the IR                |
| gate.py     | all of that held against what each segment claims                                 |
| report.py   | the command: tables and JSON                                                      |
"""
