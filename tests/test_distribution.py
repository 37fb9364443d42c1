"""What is built to be given away installs where nothing of this repository is, and runs."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import poseidon_tf

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent
# What the build reads; nothing that an earlier build has left.
SOURCES = ["LICENSE", "README.md", "pyproject.toml", "setup.py", "poseidon_tf"]
IMPORTS = """
import importlib.metadata, poseidon_tf
assert poseidon_tf.__file__.startswith({prefix!r}), poseidon_tf.__file__
poseidon_tf.PoseidonStrategy, poseidon_tf.Deadlines
metadata = importlib.metadata.metadata("poseidon_tf")
print(metadata["Version"], metadata["License-Expression"] or metadata["License"])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `make dist` leaves both, made of a copy of this tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    return out


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_it_installs_into_a_clean_environment_and_runs(
    built: Path, pattern: str, tmp_path: Path
) -> None:
    """With its command, its licence and its version; only dependencies come from elsewhere."""
    (distribution,) = built.glob(pattern)
    clean = tmp_path / "clean"
    venv.create(clean)
    python = clean / "bin" / "python"
    packages = next(clean.glob("lib/python3*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--force-reinstall"]
    subprocess.run([*pip, *options, distribution], check=True, capture_output=True, timeout=120)
    run = [str(python), "-c", IMPORTS.format(prefix=str(clean))]
    printed = subprocess.run(
        run, check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path
    ).stdout.split()
    assert printed == [poseidon_tf.__version__, "Apache-2.0"]
    command = subprocess.run(
        [clean / "bin" / "poseidon-tf", "--help"], check=True, capture_output=True, text=True
    )
    assert "Usage: poseidon-tf" in command.stdout
    assert list(packages.glob("poseidon_tf-*/**/LICENSE"))
    assert (packages / "poseidon_tf" / "py.typed").exists()


def test_the_version_stands_once() -> None:
    """That of the package is that of its metadata."""
    assert importlib.metadata.version("poseidon_tf") == poseidon_tf.__version__
