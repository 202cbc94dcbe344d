"""Compilers' verdicts on the kernels, without the chips they are for.

| file        | what it does                                                               |
|-------------|----------------------------------------------------------------------------|
| chunk.py    | the launches of one chunk, compiled and recorded instead of run            |
| options.py  | what the gates' commands have in common                                    |
| ascend/     | the Ascend compiler's verdict                                              |
| hopper/     | upstream Triton's for sm_90                                                |
"""
