"""python -m adam_any: what is installed, which engine each library gets, and the main job for real.

- The array libraries found, each with its engine and the reason for it; and what the others need.
- The notebook that this package grew from, run on each of them and held against its own digits.
- A classifier of handwritten digits, trained on the arrays of one library.
- One large step, timed against textbook NumPy.

Exit status: 0; 1 where a result is not as it should be; 2 where something needed is missing.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .demo import digits, notebook, places, speed
from .demo.digits import Classifier, Epoch
from .demo.places import Place, UnusableError

if TYPE_CHECKING:  # imported where they are used, after `main` has said what is missing
    from rich.console import Console
    from rich.table import Table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job, and return the exit status."""
    options = _options(arguments)
    try:
        _require("rich", "sklearn", *(["matplotlib"] if options.plot else []))
        if options.plot:
            _require_writable(options.plot)
        failures = _run(options.library, options.plot)
    except UnusableError as reason:
        _complain(str(reason))
        return 2
    for failure in failures:
        _complain(failure)
    return 1 if failures else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m adam_any",
        description="Show the array libraries found and the engine that each gets, run the "
        "notebook's experiment on all of them, and train a classifier of handwritten digits.",
    )
    parser.add_argument(
        "--library",
        choices=["numpy", "cupy", "torch", "jax"],
        default="numpy",
        help="the library whose arrays the classifier is trained on (default: numpy)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the classifier's loss and accuracy"
    )
    return parser.parse_args(arguments)


def _require(*modules: str) -> None:
    """Raise UnusableError for those that are not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    packages = ["scikit-learn" if module == "sklearn" else module for module in missing]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UnusableError(
            f"{' and '.join(packages)} {verb} not installed; to run this: "
            f"pip install {' '.join(packages)}"
        )


def _require_writable(path: Path) -> None:
    """Raise UnusableError, before any work, where the plot could not be written after it."""
    if path.suffix.lower() != ".png":
        raise UnusableError(f"the plot is a PNG, so {str(path)!r} must end in .png")
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        why = f"the plot cannot be written to {str(path)!r}: {error.strerror}"
        raise UnusableError(f"{why}; give --plot another path") from None
    if new:
        path.unlink()


def _complain(sentence: str) -> None:
    print(f"python -m adam_any: {sentence}", file=sys.stderr)


def _run(library: str, plot: Path | None) -> list[str]:
    """Do everything and show it; return what is not as it should be, in sentences."""
    from rich.console import Console

    # JAX would take three quarters of a GPU's memory for itself, and leave the others little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    console = Console(highlight=False, markup=False)
    with console.status("importing the array libraries"):
        place = places.places(library)[-1]  # before the others, since it may be unusable
        found, unusable = places.survey()
    _show_libraries(console, found, unusable)
    failures = _show_notebook(console, found)
    failures += _show_digits(console, place, plot)
    _show_speed(console)
    return failures


# What is shown ------------------------------------------------------------------------------------


def _show_libraries(console: Console, found: Sequence[Place], unusable: Sequence[str]) -> None:
    table = _table("Array libraries found", "Library", "Version", "Device", "Engine", "Why")
    for place in found:
        choice = place.explain()[0]
        table.add_row(place.library, place.version, place.where, choice.engine, choice.reason)
    console.print(table)
    console.print("", *unusable, "", sep="\n")


def _show_notebook(console: Console, found: Sequence[Place]) -> list[str]:
    title = "The notebook's experiment: minimise m^2 - 2m + 1 from 0.0, lr 0.01, float64"
    table = _table(title, "Library", "Converged", "Weight", "Bias", "Deviation")
    failures = []
    for place in found:
        with console.status(f"the notebook's experiment on {place.label}"):
            row, failure = _notebook_row(place)
        table.add_row(place.label, *row)
        if failure:
            failures.append(f"{place.label}: {failure}")
    console.print(table)
    console.print(
        "\nConverged: the weight no longer changed. Deviation: the largest difference of weight or "
        f"bias from the digits that the notebook printed, iterations {notebook.NOTEBOOK_FIRST} to "
        f"{notebook.NOTEBOOK_LAST}; {notebook.DEVIATION_ALLOWED:.0e} is allowed. In the notebook "
        "the bias is NaN from its first step, because its gradient is not squared. Dask is stopped "
        "where the digits end: each of its steps takes 10 to 20 ms.\n"
    )
    return failures


def _notebook_row(place: Place) -> tuple[list[str], str | None]:
    try:
        descent = notebook.descend(place)
    except Exception as error:  # one broken library must not hide what the others do
        return ["failed"], f"{type(error).__name__}: {places.first_line(error)}"
    converged = f"{'after' if descent.converged else 'not by'} {descent.iterations}"
    weight, bias = repr(descent.weight), repr(descent.bias)
    return [converged, weight, bias, f"{descent.deviation:.1e}"], descent.failure


def _show_digits(console: Console, place: Place, plot: Path | None) -> list[str]:
    data = digits.load_digits()
    classifier = Classifier(place, data)
    epochs = _learn(console, classifier)
    accuracy = epochs[-1].test_accuracy
    engines = dict.fromkeys((c.engine, c.reason) for c in classifier.optimizer.explain())

    table = _table("Handwritten digits, a network of two layers", "", "")
    table.show_header = False
    table.add_row("arrays", f"{place.library} {place.version} on {place.where}, float32")
    table.add_row("images", f"{len(data.learn_x):,} learned, {len(data.test_x)} to test")
    asked = _percent(digits.ACCURACY_ASKED)
    table.add_row("test accuracy", f"{_percent(accuracy)} (at least {asked} is asked)")
    table.add_row("optimizer step", _step_time(classifier))
    for engine, reason in engines:
        table.add_row("engine", f"{engine}: {reason}")
    if plot:
        _draw(plot, place, epochs)
        table.add_row("plot", str(plot))
    console.print(table)
    if accuracy >= digits.ACCURACY_ASKED:
        return []
    return [f"{place.label}: the test accuracy is {_percent(accuracy)}; at least {asked} is asked"]


def _show_speed(console: Console) -> None:
    with console.status("timing a large step"):
        choice, chosen, reference = speed.compare()
    console.print(
        f"\nOne step of {speed.ELEMENTS:,} float32 parameters in NumPy: {1e3 * chosen:.0f} ms with "
        f"the engine {choice.engine}; {1e3 * reference:.0f} ms, {reference / chosen:.1f} times as "
        "long, in NumPy's own operations, as people write it by hand."
    )


def _learn(console: Console, classifier: Classifier) -> list[Epoch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    epochs = []
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
    )
    with Progress(
        *shown, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("handwritten digits", total=digits.EPOCHS)
        for epoch in classifier.learn():
            epochs.append(epoch)
            text = f"handwritten digits: test accuracy {_percent(epoch.test_accuracy)}"
            progress.update(task, advance=1, description=text)
    return epochs


def _step_time(classifier: Classifier) -> str:
    milliseconds = 1e3 * statistics.median(classifier.seconds)
    shapes = [array.shape for layer in classifier.params.values() for array in layer.values()]
    elements = sum(map(math.prod, shapes))
    return (
        f"{milliseconds:.3f} ms for {elements:,} parameters in {len(shapes)} arrays "
        f"(median of {len(classifier.seconds)} steps)"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        *columns,
        title=title,
        title_style="bold",
        title_justify="left",
        header_style="",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


def _draw(path: Path, place: Place, epochs: Sequence[Epoch]) -> None:
    """Loss and accuracy over the epochs, drawn by Agg, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True)
    accuracy = _percent(epochs[-1].test_accuracy)
    title = f"Handwritten digits, Adam on {place.label}: {accuracy} test accuracy"
    upper.set_title(title, loc="left", pad=12)
    count = range(1, len(epochs) + 1)
    upper.semilogy(count, [epoch.loss for epoch in epochs], label="training images, jittered")
    upper.semilogy(count, [epoch.test_loss for epoch in epochs], label="test images")
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    upper.yaxis.set_major_formatter("{x:g}")
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_ylabel("loss (cross-entropy)")
    upper.legend(frameon=False)
    lower.plot(count, [100 * epoch.test_accuracy for epoch in epochs], color="C1")
    lower.axhline(100 * digits.ACCURACY_ASKED, color="0.6", linewidth=0.8, zorder=0)
    lower.annotate(
        f"{_percent(digits.ACCURACY_ASKED)} is asked",
        (1, 100 * digits.ACCURACY_ASKED),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color="0.4",
    )
    lower.set_ylabel("test accuracy (%)")
    lower.set_xlabel("epoch")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
