"""What the README says of support is what the data says."""

from pathlib import Path

from dsv4_kernels.support import support_table

README = Path(__file__).parent.parent / "README.md"


def test_the_support_table_is_the_printed_one():
    text = README.read_text()
    block = text.split("tests/test_readme.py -->\n")[1].split("\n<!-- end of support")[0]
    assert block == support_table(), "paste: python -m dsv4_kernels.support"
