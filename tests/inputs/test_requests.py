"""The steps of a server that a demo draws."""

import pytest

from dsv4_kernels.inputs.requests import decode_step, mixed_step
from dsv4_kernels.inputs.rope import MAX_POSITIONS


@pytest.mark.parametrize(("tokens", "mtp"), [(0, 1), (2, 1), (9, 1), (64, 0), (64, 3), (128, 1)])
def test_a_decode_step_is_one_graph(tokens, mtp, seed):
    """Every request has as many tokens, as in a graph; the last are padding."""
    requests = decode_step(tokens, start=300, mtp=mtp, seed=seed)
    assert [r.tokens for r in requests] == [1 + mtp] * (tokens // (1 + mtp))
    live = [r for r in requests if r.length]
    assert requests[: len(live)] == live
    assert len(requests) < 2 or 0 < len(requests) - len(live) <= -(-len(requests) // 8)
    first = [r.length - r.tokens for r in live]
    assert all(0 <= p <= 300 for p in first)
    assert first[:1] == [300][: len(first)]
    assert len({r.key for r in live}) == len(live)


@pytest.mark.parametrize(("tokens", "mtp"), [(0, 1), (1, 1), (5, 0), (128, 1), (300, 3)])
def test_a_mixed_step_decodes_first(tokens, mtp, seed):
    requests = mixed_step(tokens, start=300, mtp=mtp, seed=seed)
    assert sum(r.tokens for r in requests) == tokens
    decoded = tokens // 4 // (1 + mtp)
    assert all(r.tokens == 1 + mtp for r in requests[:decoded])
    prompts = requests[decoded:]
    assert len(prompts) == min(tokens, 3) or tokens < 3
    if len(prompts) == 3:
        assert prompts[0].length == prompts[0].tokens  # a whole prompt
        assert prompts[2].length - prompts[2].tokens == 300
    assert len({r.key for r in requests}) == len(requests)


@pytest.mark.parametrize(
    ("draw", "tokens", "start", "mtp", "words"),
    [
        (decode_step, 1, 0, 1, "`tokens` must be 0 or at least 2, a request's, got 1"),
        (decode_step, -1, 0, 1, "`tokens` must be >= 0, got -1"),
        (mixed_step, 1, -1, 1, "`start` must be >= 0, got -1"),
        (mixed_step, 1, 0, -1, "`mtp` must be >= 0, got -1"),
        (mixed_step, 1, MAX_POSITIONS, 0, "`start` must leave all positions below 16777216"),
    ],
)
def test_a_step_that_cannot_be(draw, tokens, start, mtp, words):
    with pytest.raises(ValueError, match=words):
        draw(tokens, start=start, mtp=mtp, seed=0)
