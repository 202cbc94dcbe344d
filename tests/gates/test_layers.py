"""What attention moves by layer and form: the printed table, and the figures that lanes are for."""

from pathlib import Path

import pytest

from dsv4_kernels.dims import PRESETS
from dsv4_kernels.gates.ascend.layers import LAYERS, TOKENS, Layer, count_layers, markdown

README = Path(__file__).resolve().parents[2] / "dsv4_kernels" / "gates" / "README.md"
CSA = Layer("CSA", 4000)
HCA, SHARED = Layer("HCA", 131_072 - TOKENS), Layer("HCA", 131_072 - TOKENS, sharers=8)


def printed() -> list[str]:
    text = README.read_text()
    begin = text.index("\n", text.index("<!-- layers:")) + 1
    return text[begin : text.index("<!-- end of layers")].strip().splitlines()


@pytest.mark.parametrize("part", ["Ascend910B3", "Ascend910_9392"])
def test_csa_in_lanes_is_four_fifths_of_the_fused_form(part):
    rows = [*count_layers(part, PRESETS["FLASH"], [CSA])]
    fused, lanes = rows
    assert lanes.bytes <= 0.80 * fused.bytes
    assert lanes.bytes <= 0.80 * 514 * 2**20
    assert lanes.gather_dma <= 163_840
    assert lanes.scalar_loads <= 0.25 * (248_320 + 163_968)
    assert {*markdown({"FLASH": rows}).splitlines()} <= {*printed()}


def test_shared_kv_of_a_long_hca_layer_in_lanes():
    rows = [*count_layers("Ascend910B3", PRESETS["FLASH"], [HCA, SHARED])]
    fused, _, _, shared = rows
    assert shared.bytes <= 0.40 * fused.bytes
    assert {*markdown({"FLASH": rows}).splitlines()} <= {*printed()}


def test_shared_windows_in_lanes():
    """Against the window's own columns with nothing shared."""
    alone, shared = Layer("SWA", 4000), Layer("SWA", 4000, sharers=8)
    rows = [*count_layers("Ascend910B3", PRESETS["FLASH"], [alone, shared])]
    fused, _, _, lanes = rows
    assert lanes.bytes <= 0.40 * fused.bytes
    assert {*markdown({"FLASH": rows}).splitlines()} <= {*printed()}


@pytest.mark.limits
@pytest.mark.parametrize("part", ["Ascend910B3", "Ascend910_9392"])
def test_the_printed_table(part):
    counted = {preset: [*count_layers(part, PRESETS[preset])] for preset in PRESETS}
    assert markdown(counted).splitlines() == printed()


def test_columns_are_the_windows_of_all_sharers_and_the_slots():
    dims = PRESETS["FLASH"]
    assert [layer.columns(dims) for layer in LAYERS] == [128, 135, 640, 160, 1152, 1159]
