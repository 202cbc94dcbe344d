"""`tl.gather` of one dimension, which triton-ascend leaves as a call of its own compiler."""

from __future__ import annotations

import re

_DECLARED = re.compile(r"^ *func\.func private @triton_gather\w*\(.*\n", re.MULTILINE)
_CALLED = re.compile(
    r"(%\w+) = func\.call @triton_gather\w*\((%\w+), (%\w+), %\w+\) : "
    r"\((tensor<\d+x(\w+)>), (tensor<\d+xi32>), i32\) -> (tensor<\d+x\w+>)"
)
_EXPANDED = """\
{result}_empty = tensor.empty() : {made}
{result} = linalg.generic {{indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], \
iterator_types = ["parallel"]}} ins({index} : {indices}) outs({result}_empty : {made}) {{
^bb0(%gather_at: i32, %gather_out: {element}):
  %gather_place = arith.index_cast %gather_at : i32 to index
  %gather_value = tensor.extract {source}[%gather_place] : {sources}
  linalg.yield %gather_value : {element}
}} -> {made}"""


def expand_gathers(linalg: str) -> str:
    """The module with every gather as a loop over its index; other ranks stay as they are."""

    def expanded(call: re.Match[str]) -> str:
        result, source, index, sources, element, indices, made = call.groups()
        result = f"%gather_{result[1:]}" if result[1:].isdigit() else result
        names = dict(source=source, index=index, sources=sources, element=element)
        text = _EXPANDED.format(result=result, indices=indices, made=made, **names)
        return text.replace(f"{result} = ", f"{call[1]} = ")

    return _CALLED.sub(expanded, _DECLARED.sub("", linalg))
