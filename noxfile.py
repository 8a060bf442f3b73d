"""One word for each habit: `nox -s tests`, `all`, `lint`, `docs`, `site` or `build`.

Every session makes its own environment; `nox -R` uses it again, without installing.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def tests(session: nox.Session) -> None:
    """Run the quick tests on all cores. Arguments after `--` go to pytest."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-n", "auto", *session.posargs)


@nox.session(venv_backend="none")
def all(session: nox.Session) -> None:
    """Run everything that CI runs, slow tests included."""
    session.run("bash", ".ci/run")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and types."""
    session.install("-e", ".[demo,dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the README, the docs and the docstrings."""
    session.install("-e", ".[test,jax,dask]")
    # Modules of libraries that are not installed here, such as CuPy, are left out.
    doctest = ["--doctest-modules", "--doctest-ignore-import-errors", "adam_any"]
    session.run("python", "-m", "pytest", "-q", *doctest, "tests/test_readme.py")


@nox.session
def site(session: nox.Session) -> None:
    """Build the site, for which every example is run."""
    session.install("-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-qW", "docs", "site")


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist, check them, and try the wheel in a fresh environment."""
    session.install("-e", ".[dev]")
    session.run("python", ".ci/package.py")
