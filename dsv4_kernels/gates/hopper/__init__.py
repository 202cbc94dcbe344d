"""Upstream Triton's verdict on every kernel for sm_90, without a GPU: `make hopper-gate`.

| file        | what it does                                                                       |
|-------------|------------------------------------------------------------------------------------|
| compiler.py | one launch -> PTX and shared memory, by upstream Triton                            |
| ptxas.py    | registers, spills and warnings, as the assembler reports them                      |
| gate.py     | all of that held against the limits of the chip and what each segment claims       |
| report.py   | the command: table and JSON                                                        |
"""
