"""What INT8 and bf16 cost, in percent of the output: ``python -m dsv4_kernels accuracy``.

| file           | what it does                                                                |
|----------------|-----------------------------------------------------------------------------|
| activations.py | o_r to quantise: drawn from distributions, or made by the chain             |
| granularity.py | the error of quantised activations, by the span that shares an amax         |
| budget.py      | the error of every rounding point of the chain, alone and left out          |
| study.py       | both at given sizes, and the results as data                                |
| tables.py      | the results as tables, for a terminal and for Markdown                      |
| picture.py     | the results as a PNG                                                        |
| command.py     | the command                                                                 |

All of it runs on the CPU, in the torch reference: it is about numbers, not about a device.
"""

from dsv4_kernels.device import MissingDependency

try:
    import reference  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        "the accuracy study is made of reference/, which is not part of the installed package: run "
        "it from a checkout"
    ) from error
