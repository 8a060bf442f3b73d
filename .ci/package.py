"""Build the wheel and the sdist, check their contents, and use the wheel as its users will.

    python .ci/package.py

The tools are in the extra `dev`. Both files stay in dist/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
#: What the sdist has, as in pyproject.toml, and what hatchling adds.
SDIST = ("adam_any/", "bench/", "docs/", "examples/", "tests/", "noxfile.py")
SDIST += ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md")
ADDED = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}

USE = """
import importlib.metadata, pathlib, sys
import numpy as np
import adam_any

assert pathlib.Path(adam_any.__file__).is_relative_to(sys.prefix), adam_any.__file__
assert importlib.metadata.version("adam-any") == adam_any.__version__
opt = adam_any.Adam({"x": np.zeros(2)}, lr=0.1)
for _ in range(500):
    params = opt.step({"x": 2 * (opt.params["x"] - 1)})
assert abs(params["x"] - 1).max() < 1e-6
print(f"adam_any {adam_any.__version__} from {adam_any.__file__}")
print(opt.explain())
"""


def main() -> None:
    """Build, check and try out."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)

    tracked = run("git", "ls-files", capture=True).splitlines()
    package = {name for name in tracked if name.startswith("adam_any/")}
    compare(wheel, {name for name in in_wheel(wheel) if ".dist-info/" not in name}, package)
    compare(sdist, in_sdist(sdist), {name for name in tracked if name.startswith(SDIST)} | ADDED)
    with tempfile.TemporaryDirectory() as folder:
        try_out(wheel, Path(folder))


def compare(file: Path, found: set[str], wanted: set[str]) -> None:
    """Exit with the names that are missing from a file, or should not be in it."""
    if found != wanted:
        sys.exit(
            f"{file.name}: missing {sorted(wanted - found)}, and not wanted (or not known to git) "
            f"{sorted(found - wanted)}"
        )
    print(f"{file.name}: {len(found)} files, {file.stat().st_size / 1e3:.0f} kB")


def in_wheel(file: Path) -> set[str]:
    """List the files in a wheel."""
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def in_sdist(file: Path) -> set[str]:
    """List the files in an sdist, without the folder that they are all in."""
    with tarfile.open(file) as archive:
        names = [PurePosixPath(member.name) for member in archive if member.isfile()]
    return {str(name.relative_to(name.parts[0])) for name in names}


def try_out(wheel: Path, folder: Path) -> None:
    """Install the wheel alone in a fresh environment, away from the repository, and use it."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "-q", wheel, cwd=folder)
    run(python, "-I", "-c", USE, cwd=folder)


def run(*command: str | Path, capture: bool = False, cwd: Path = ROOT) -> str:
    """Run a command, show it, and exit if it fails."""
    print("$", *(part if len(str(part)) < 200 else "..." for part in command), flush=True)
    out = subprocess.PIPE if capture else None
    done = subprocess.run(list(map(str, command)), cwd=cwd, stdout=out, text=True, check=False)
    if done.returncode:
        sys.exit(f"it failed with exit status {done.returncode}")
    return done.stdout or ""


if __name__ == "__main__":
    main()
