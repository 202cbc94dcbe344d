"""What the Ascend compiler decided, read off its final IR: cores, memory, double buffering."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from dsv4_kernels.backends.hivm.memory import ELEMENT_BITS

# HIVM's address spaces by the names of the hardware, and where the target's limit of each stands.
SPACES = {"ub": "UB", "cbuf": "L1", "cc": "L0C"}

_CORE = re.compile(r"hivm\.module_core_type<(\w+)>")
_LIMIT = re.compile(r'"(UB|L1|L0C)_SIZE", (\d+)')
_CORES = re.compile(r'"(CUBE|VECTOR)_CORE_COUNT", (\d+)')
_WORKSPACE = re.compile(r"infer_workspace_shape_function.*?arith\.constant (\d+)", re.DOTALL)
_FUNCTION = re.compile(r"^  func\.func @(\w+)\(.*?^  }", re.MULTILINE | re.DOTALL)
_CONSTANT = re.compile(r"(%\S+) = arith\.constant (-?\d+) : i64")
_BUFFER = re.compile(
    r"(%\S+) = hivm\.hir\.pointer_cast\((%\w+)\) : "
    r"memref<(?P<shape>(?:\d+x)*)(?P<type>\w+), #hivm\.address_space<(?P<space>\w+)>"
)
_SELECT = re.compile(r"(%\S+) = arith\.select %\S+, (%\S+), (%\S+) : memref")
_ALIAS = re.compile(
    r"(%\S+) = memref\.(?:cast|subview|collapse_shape|expand_shape|view) (%[\w#-]+)"
)
_LOAD = re.compile(r"call @(nd2nz\w*|load_gm_to_ubuf\w*)\((%[\w-]+), (%[\w-]+)")


@dataclass(frozen=True)
class MemoryPlan:
    """Memory and cores of one compiled kernel. Bytes are per core."""

    core: str  # AIC | AIV | MIX
    used: dict[str, int]  # by space: UB, L1, L0C
    limits: dict[str, int]
    doubled: tuple[str, ...]  # buffers that two iterations take in turns, as "L1 128x256xbf16"
    single_loads: tuple[str, ...]  # L1 destinations of loads that are not doubled
    workspace: int  # bytes per cube core that the compiler wants of global memory
    one_vector_core: bool  # one of a pair's two vector cores does all the storing
    cube_cores: int
    vector_cores: int


def read_plan(hivm: str) -> MemoryPlan:
    """The plan of a final HIVM module. ValueError where the text is not one."""
    core = _CORE.search(hivm)
    if core is None:
        raise ValueError("no hivm.module_core_type in the compiler's output")
    limits = {name: int(bits) // 8 for name, bits in _LIMIT.findall(hivm)}
    cores = {name: int(count) for name, count in _CORES.findall(hivm)}
    workspace = _WORKSPACE.search(hivm)
    used: dict[str, int] = defaultdict(int)
    doubled: list[str] = []
    single: list[str] = []
    for function in _FUNCTION.finditer(hivm):
        buffers = _buffers(function[0])
        for space, _, end in buffers.values():
            used[space] = max(used[space], end)
        # In the order of the text, since sibling blocks use the same names again.
        origin: dict[str, str] = {}  # value -> what it is a view of
        for line in function[0].splitlines():
            if alias := _ALIAS.search(line):
                origin[alias[1]] = origin.get(alias[2], alias[2])
            elif (pair := _SELECT.search(line)) and pair[2] in buffers and pair[3] in buffers:
                origin[pair[1]] = pair[1]
                doubled.append(buffers[pair[2]][1])
            elif load := _LOAD.search(line):
                target = origin.get(load[3], load[3])
                if target in buffers and buffers[target][0] == "L1":
                    single.append(buffers[target][1])
    return MemoryPlan(
        core=core[1],
        used={name: used[name] for name in SPACES.values()},
        limits=limits,
        doubled=tuple(doubled),
        single_loads=tuple(single),
        workspace=int(workspace[1]) if workspace else 0,
        one_vector_core="limit_sub_block_id0" in hivm,
        cube_cores=cores["CUBE"],
        vector_cores=cores["VECTOR"],
    )


def _buffers(body: str) -> dict[str, tuple[str, str, int]]:
    """{value: (space, "space shape", end of the buffer in bytes)}, zero-sized dummies left out."""
    constants = {name: int(value) for name, value in _CONSTANT.findall(body)}
    found = {}
    for match in _BUFFER.finditer(body):
        elements = 1
        for size in filter(None, match["shape"].split("x")):
            elements *= int(size)
        if elements == 0 or match["space"] not in SPACES:
            continue
        space = SPACES[match["space"]]
        end = constants[match[2]] + -(-elements * ELEMENT_BITS[match["type"]] // 8)
        found[match[1]] = (space, f"{space} {match['shape']}{match['type']}", end)
    return found
