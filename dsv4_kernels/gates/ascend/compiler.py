"""A launch, compiled by the Ascend compiler up to its final IR, without an NPU.

A Triton backend on `front_half.py`: linalg goes to bishengir-compile with the options that
triton-ascend would give it. The compiler stops for want of the closed `hivmc`, which assembles; all
before that is real: tiling, memory plan, double buffering, synchronisation, and its refusals.
"""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from triton.backends import Backend, backends
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import MLIRCompilationError
from triton.runtime.cache import get_cache_manager

from dsv4_kernels.backends.front_half import FrontHalfBackend, Stage, bishengir
from dsv4_kernels.gates.chunk import RecordingDriver

# triton-ascend 3.2.0, compiler.py, linalg_to_bin_enable_npu_compile_A2_A3: its launch options and
# the compiler's flags for them. One that is None is not passed.
_FLAGS = {
    "multibuffer": "enable-auto-multi-buffer",
    "enable_auto_bind_sub_block": "enable-auto-bind-sub-block",
    "enable_hivm_auto_cv_balance": "enable-hivm-auto-cv-balance",
    "sync_solver": "enable-hivm-graph-sync-solver",
    "unit_flag": "enable-hivm-unit-flag-sync",
    "inject_barrier_all": "enable-hivm-inject-barrier-all-sync",
    "inject_block_all": "enable-hivm-inject-block-all-sync",
    "limit_auto_multi_buffer_only_for_local_buffer": (
        "limit-auto-multi-buffer-only-for-local-buffer"
    ),
    "set_workspace_multibuffer": "set-workspace-multibuffer",
    "tile_mix_vector_loop": "tile-mix-vector-loop",
    "tile_mix_cube_loop": "tile-mix-cube-loop",
    "limit_auto_multi_buffer_of_local_buffer": "limit-auto-multi-buffer-of-local-buffer",
    "disable_auto_inject_block_sync": "disable-auto-inject-block-sync",
}
_ALWAYS = ("enable-hfusion-compile", "enable-hivm-compile", "enable-triton-kernel-compile")

# A retry means that the compiler gave something up silently, double buffering at worst.
_RETRY = re.compile(r"\[NOTE\] (.*retrying compilation.*)")
_OVERFLOW = re.compile(r"(\w+) overflow, requires (\d+) bits while (\d+) bits available")


class AscendCompileBackend(FrontHalfBackend):
    """After linalg: the final HIVM IR, as text."""

    name = "ascend-compile-only"
    binary_ext = "hivm"
    sources = (Path(__file__),)

    def ascend_part(self) -> str:
        return str(self.target.arch)

    def later_stages(self, options: Any) -> tuple[Stage, ...]:
        def hivm(linalg: str, metadata: dict[str, Any]) -> bytes:
            begin = time.perf_counter()
            text, notes = _compile(linalg, self.ascend_part(), options)
            metadata.update(retries=notes, compile_seconds=time.perf_counter() - begin)
            return text.encode()

        return (hivm,)


class CompileOnlyDriver(RecordingDriver["AscendKernel"]):
    """Compiles what is launched for one part by the Ascend compiler, and records it."""

    refusals = (MLIRCompilationError,)

    def get_current_target(self) -> GPUTarget:  # pyright: ignore[reportIncompatibleMethodOverride]
        return GPUTarget(AscendCompileBackend.name, self.part, 0)

    def get_device_properties(self, device: str) -> dict[str, int]:
        return {"max_shared_mem": 0}

    def load_binary(self, name: str, binary: bytes, shared: int, device: str) -> tuple[Any, ...]:
        return True, binary.decode(), 0, 0  # module, function, registers, spills

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: None, hivm: str, *rest: Any) -> None:
            values = dict(zip(source.signature, rest[4:], strict=True))  # after metadata and hooks
            cache = get_cache_manager(metadata.hash)
            stages = {s: cache.get_file(f"{source.name}.{s}") for s in ("ttir", "ttadapter")}
            self.launched(
                AscendKernel(
                    kernel=metadata.name,
                    grid=x * y * z,
                    arguments={k: v for k, v in values.items() if k not in source.constants},
                    constants=dict(source.constants),
                    hivm=hivm,
                    stages={s: Path(path).read_text() for s, path in stages.items() if path},
                    retries=tuple(metadata.retries),
                    seconds=metadata.compile_seconds,
                    options=metadata,
                )
            )

        return launch

    def launched(self, launch: AscendKernel) -> None:
        """What becomes of a compiled launch: a record."""
        self.launches.append(launch)

    def refused(self, why: str) -> AscendKernel:
        return AscendKernel(refusal=why)


@functools.cache
def driver(part: str) -> CompileOnlyDriver:
    """The driver of `part`, one per process: Triton keeps launchers, and they their driver."""
    backends[AscendCompileBackend.name] = Backend(AscendCompileBackend, CompileOnlyDriver)  # pyright: ignore[reportArgumentType]
    return CompileOnlyDriver(part)


@dataclass(frozen=True)
class AscendKernel:
    """A kernel launch as it was asked for, and what the compiler made of it.

    grid: programs. arguments: runtime ones by name, in the compiled order; constants: the rest.
    stages: text of earlier stages. retries: what the compiler gave up, in its words. refusal: why
    there is no `hivm`, if there is none. options: the compiler's, as attributes.
    """

    kernel: str = ""
    grid: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    hivm: str = ""
    stages: dict[str, str] = field(default_factory=dict)
    retries: tuple[str, ...] = ()
    seconds: float = 0.0
    refusal: str = ""
    options: Any = field(default=None, repr=False)

    @property
    def code(self) -> str:
        """What tells `hivm` from another."""
        return hashlib.sha256(self.hivm.encode()).hexdigest()[:16]

    @property
    def overflow(self) -> tuple[str, int, int] | None:
        """(memory, bytes needed, bytes available) where the refusal was for want of memory."""
        found = _OVERFLOW.search(self.refusal)
        return (found[1].upper(), int(found[2]) // 8, int(found[3]) // 8) if found else None


def recompiled(launch: AscendKernel, part: str) -> AscendKernel:
    """The launch with its kernel compiled once more: the compiler does not always make the same of
    the same text."""
    begin = time.perf_counter()
    hivm, retries = _compile(launch.stages["ttadapter"], part, launch.options)
    seconds = time.perf_counter() - begin
    return replace(launch, hivm=hivm, retries=tuple(retries), seconds=seconds)


def _compile(linalg: str, part: str, options: Any) -> tuple[str, list[str]]:
    """Final HIVM text and the compiler's retries."""
    # triton-ascend takes this attribute away too before it calls the compiler.
    source = re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg)
    flags = [f"--target={part}"]
    for option, flag in _FLAGS.items():
        value = getattr(options, option)
        if value is not None:
            flags.append(f"--{flag}={str(value).lower() if isinstance(value, bool) else value}")
    flags += [f"--{flag}=true" for flag in _ALWAYS]
    with tempfile.TemporaryDirectory(prefix="dsv4-") as name:
        folder = Path(name)
        (folder / "kernel.mlir").write_text(source)
        command = [str(bishengir("bishengir-compile")), "kernel.mlir", *flags]
        command += [f"--save-temps={name}", "-o", "kernel.o"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        final = folder / "module.hivm.opt.mlir"
        if not final.exists():
            raise RuntimeError(_what_it_said(done.stderr))
        return final.read_text(), _RETRY.findall(done.stderr)


def _what_it_said(stderr: str) -> str:
    """The compiler's errors, without its search for the assembler that is not here."""
    lines = [line for line in stderr.splitlines() if "error:" in line or "NOTE" in line]
    return "\n".join(lines) or stderr
