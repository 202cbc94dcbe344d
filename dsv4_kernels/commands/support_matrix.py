"""What has been shown to work where: the data behind the README's table, and the table.

A claim is here only if something repeats it: a test, or a committed result with device and date.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A row of the table: what was done, with what, and who repeats it; None is nothing yet."""

    where: str
    shown: str | None
    by: str


CLAIMS = (
    Claim(
        "run on a CPU",
        "every segment; FLASH, PRO, odd sizes, against torch",
        "`make test`, by triton-ascend 3.2.0",
    ),
    Claim(
        "compiled for Ascend, to the final IR",
        "every segment but CUDA's attend_rows; FLASH and PRO, A2 (910B3) and A3 (910_9392)",
        "`python -m dsv4_kernels ascend` (sparse_attn's resolvers: `--batch`), by a compiler "
        "newer than CANN 8.5's",
    ),
    Claim(
        "executed as final Ascend IR",
        "the same (sparse_attn's resolvers: small sizes): on a model of the cores, not on an NPU",
        "`python -m dsv4_kernels ascend --execute` (sparse_attn's resolvers: `make test`)",
    ),
    Claim(
        "compiled for Hopper, to machine code",
        "every segment; FLASH and PRO, sm_90a",
        "`make hopper-gate`, by upstream Triton 3.6.0",
    ),
    Claim("run on an NPU", None, "nobody yet"),
    Claim("run on CUDA", None, "nobody yet"),
)


def support_table() -> str:
    """Markdown: a row per claim."""
    rows = [
        ["", "what", "shown by"],
        ["---"] * 3,
        *([claim.where, claim.shown or "nothing", claim.by] for claim in CLAIMS),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(support_table())
