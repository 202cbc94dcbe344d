"""What torch.compile calls as it is, and does not look into.

A launch is made of pointers and streams, of which a traced graph knows nothing: a graph ends before
the call and another begins behind it. Operators that stand inside a graph are in `chains/ops.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_UNTRACED: dict[Any, Callable[..., Any]] = {}  # one each: a new one would be compiled around anew


def untraced(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """`function`, which breaks the graph of who compiles its caller.

    `torch.compiler.disable` by itself imports the compiler, a second that only those should wait
    for who use it.
    """

    @functools.wraps(function)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if function not in _UNTRACED:
            _UNTRACED[function] = torch.compiler.disable(function)
        return _UNTRACED[function](*args, **kwargs)

    return call
