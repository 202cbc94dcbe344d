"""A batch's first segment: of every token its request and its position in it."""

from __future__ import annotations

import torch

from reference.batch import places
from reference.bounds import Bound, Inputs, Outputs, exact


def token_map(
    query_start_loc: torch.Tensor,  # [S + 1] int32
    seq_lens: torch.Tensor,  # [S] int32
    first_token: int,
    tokens: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(request [N] int32, position [N] int32) of N = `tokens` from first_token on, -1 where a token
    is dead."""
    found = places(query_start_loc, seq_lens, first_token + tokens)[first_token:]
    both = torch.tensor(found, dtype=torch.int32).reshape(tokens, 2)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def bound(inputs: Inputs, want: Outputs) -> dict[str, Bound]:
    """The same numbers."""
    return exact(want, "request and position: the same numbers")
