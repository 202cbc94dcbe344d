"""RoPE tables of a DeepSeek-V4 layer.

    inv[i] = base ** (-2i / P)                          i = 0 .. P/2 - 1
    inv[i] = inv[i] / factor * ramp[i] + inv[i] * (1 - ramp[i])      compressed layers (YaRN)
    table[t, i] = table[t, i + P/2] = cos or sin of positions[t] * inv[i]

Everything up to the cosine is fp32, as in the model's own inference code: at position 2**20 the
rounding of ``inv`` alone moves an angle by some hundredths of a radian, so a table of higher
precision would be another table. There is no mscale: attention scores are not rescaled by YaRN.
"""

import math

import torch

from dsv4_kernels.dims import LAYER_RATIOS

# Values of the DeepSeek-V4 config, by its names: `rope_theta` belongs to the layers that compress
# nothing, `compress_rope_theta` to the others, which alone use `rope_scaling` (YaRN).
ROPE_THETA = 10_000.0
COMPRESS_ROPE_THETA = 160_000.0
YARN_FACTOR = 16.0
YARN_ORIGINAL_LENGTH = 65_536  # tokens; 16 times as many make the 1 048 576 of the model's context
YARN_BETA_FAST = 32.0  # turns over the original length: pairs that turn more keep their frequency
YARN_BETA_SLOW = 1.0  # pairs that turn less than once are interpolated in full

MAX_POSITIONS = 2**24  # fp32 holds every integer below

COMPRESS_RATIOS = tuple(LAYER_RATIOS.values())  # `compress_ratios` of the config


def yarn_ramp_bounds(rope_dim: int = 64) -> tuple[int, int]:
    """The pair index up to which the ramp is 0 and the one from which it is 1.

    Pair i turns ``r = length * base**(-2i/P) / (2 pi)`` times over the original length; solved for
    i at beta_fast and beta_slow and rounded outwards, as the code of the YaRN paper
    (arXiv 2309.00071) does. The bounds are (15, 25) for P = 64.
    """

    def pair_that_turns(times: float) -> float:
        turns_of_first_pair = YARN_ORIGINAL_LENGTH / (2 * math.pi)
        log_ratio = math.log(turns_of_first_pair / times) / math.log(COMPRESS_ROPE_THETA)
        return rope_dim / 2 * log_ratio

    return math.floor(pair_that_turns(YARN_BETA_FAST)), math.ceil(pair_that_turns(YARN_BETA_SLOW))


def inverse_frequencies(
    compress_ratio: int, rope_dim: int = 64, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Radians per token of each pair, [P/2] fp32.

    Raises:
        ValueError: ``compress_ratio`` is none of 0, 4, 128, or ``rope_dim`` is odd or not positive.
    """
    if compress_ratio not in COMPRESS_RATIOS:
        raise ValueError(f"`compress_ratio` must be one of {COMPRESS_RATIOS}, got {compress_ratio}")
    if rope_dim <= 0 or rope_dim % 2:
        raise ValueError(f"`rope_dim` must be even and positive, got {rope_dim}")
    base = ROPE_THETA if compress_ratio == 0 else COMPRESS_ROPE_THETA
    exponents = torch.arange(0, rope_dim, 2, dtype=torch.float32, device=device) / rope_dim
    inverse = 1.0 / base**exponents
    if compress_ratio == 0:
        return inverse
    low, high = yarn_ramp_bounds(rope_dim)
    pairs = torch.arange(rope_dim // 2, dtype=torch.float32, device=device)
    ramp = ((pairs - low) / (high - low)).clamp(0, 1)
    return inverse / YARN_FACTOR * ramp + inverse * (1 - ramp)


def rope_tables(
    positions: torch.Tensor, *, compress_ratio: int, rope_dim: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines at absolute positions.

    Args:
        positions: [T] integers, 0 .. MAX_POSITIONS - 1.
        compress_ratio: tokens per compressed slot of the layer: 0 (SWA), 4 (CSA) or 128 (HCA).
        rope_dim: P.

    Returns:
        freqs_cos, freqs_sin: [T, P] bf16 each, the P/2 columns twice, on the device of positions.

    Raises:
        ValueError: as `inverse_frequencies`.
    """
    inverse = inverse_frequencies(compress_ratio, rope_dim, positions.device)
    angles = positions.to(torch.float32)[:, None] * inverse
    twice = torch.cat((angles, angles), dim=1)
    return twice.cos().to(torch.bfloat16), twice.sin().to(torch.bfloat16)
