"""The wheel: what is in it, and that it runs by itself in an empty folder."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that nothing of a build is left in the tree, by the setuptools that is
    installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "dsv4_kernels", source / "dsv4_kernels", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs Python in an empty folder with the wheel, and with what is installed but this tree."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    # A path by itself: the files there that would put this tree on the path are not read.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    zipfile.ZipFile(wheel).extractall(site)
    empty = tmp_path_factory.mktemp("empty")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(folder / "bin" / "python"), *arguments],
            cwd=empty, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


def test_what_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        (place,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(place).decode()
    assert {name.split("/")[0] for name in names} == {"dsv4_kernels", place.split("/")[0]}
    tree = {
        str(path.relative_to(ROOT))
        for kind in ("*.py", "*.c", "*.h", "py.typed")
        for path in (ROOT / "dsv4_kernels").rglob(kind)
    }
    assert "dsv4_kernels/py.typed" in tree
    study = {name for name in tree if "/study/" in name}
    assert {name for name in names if name.startswith("dsv4_kernels/")} == tree - study
    assert "Classifier: Typing :: Typed" in metadata
    assert re.search(r"^Version: \d+\.\d+\.\d+$", metadata, re.MULTILINE)


def test_the_readme_s_example_runs_from_the_wheel(run):
    """The chain and a plan; and an operator on what they leave."""
    readme = (ROOT / "README.md").read_text()
    example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    done = run(
        "-c",
        example + "import dsv4_kernels, torch\nfrom dsv4_kernels.chains import ops\n"
        "op = torch.ops.dsv4.prefill_sparse_attn\n"
        "print(op(*inputs.args(), window=inputs.window).equal(attn_out))\n"
        "print(dsv4_kernels.__file__, dsv4_kernels.__version__)",
    )
    assert done.returncode == 0, done.stderr
    equal, place, version = done.stdout.split()
    assert equal == "True"
    assert not Path(place).is_relative_to(ROOT)
    text = (ROOT / "dsv4_kernels" / "__init__.py").read_text()
    assert f'__version__ = "{version}"' in text


def test_a_gate_runs_from_the_wheel(run):
    words = "ascend --preset FLASH --part Ascend910B3 --segment row_quant"
    done = run("-m", "dsv4_kernels", *words.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "row_quant" in done.stdout


@pytest.mark.parametrize("command", ["demo", "accuracy"])
def test_a_study_says_where_it_is(run, command):
    done = run("-m", "dsv4_kernels", command)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "run it from a checkout of the repository" in done.stderr
