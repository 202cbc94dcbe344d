"""The Ascend compiler's final IR (HIVM), executed on a model of the cores.

| file           | what it does                                                                   |
|----------------|--------------------------------------------------------------------------------|
| scalar.py      | the scalar code of the IR, as Python                                           |
| statement.py   | what a statement of it is                                                      |
| memory.py      | byte memories at planned addresses, and views of them                          |
| instruction.py | what a pipe can be told                                                        |
| cube.py        | library functions of the cube core, as instructions                            |
| vector.py      | those of the vector core                                                       |
| order.py       | vector clocks: which accesses are ordered, whatever the pipes' speed           |
| machine.py     | cores with in-order pipes, flags between them, and who moves next              |
| report.py      | what was found, by kind and by the instructions that it concerns               |

`gates/ascend/execute.py` sends launches here. README.md says what the model assumes.
"""
