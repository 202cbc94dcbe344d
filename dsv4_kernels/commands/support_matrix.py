"""What has been shown to work where: the data behind the README's table, and the table.

A claim is here only if something repeats it: a test, or a committed result with device and date.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsv4_kernels.segments import SEGMENTS


@dataclass(frozen=True)
class Claim:
    """A column of the table. `shown` says for a segment what was shown; None is nothing yet."""

    heading: str
    shown: str | None
    by: str


CLAIMS = (
    Claim("run on CPU", "FLASH, PRO and odd sizes, against the reference", "`make test`"),
    Claim(
        "compiled for Ascend",
        "FLASH and PRO, A2 (910B3) and A3 (910_9392)",
        "`python -m dsv4_kernels ascend`, to the final IR, by a compiler newer than CANN 8.5's",
    ),
    Claim(
        "compiled for Hopper",
        "FLASH and PRO, sm_90a",
        "`make hopper-gate`, to machine code, by upstream Triton 3.6.0",
    ),
    Claim("run on an NPU", None, "nobody yet"),
    Claim("run on CUDA", None, "nobody yet"),
)


def support_table() -> str:
    """Markdown: a row per segment, a column per claim, and who repeats each."""
    rows = [
        ["segment", "core", *(claim.heading for claim in CLAIMS)],
        ["---"] * (2 + len(CLAIMS)),
        *(
            [
                f"`{segment.name}`",
                segment.core,
                *("yes" if claim.shown else "no" for claim in CLAIMS),
            ]
            for segment in SEGMENTS.values()
        ),
        ["what", "", *(claim.shown or "-" for claim in CLAIMS)],
        ["shown by", "", *(claim.by for claim in CLAIMS)],
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(support_table())
