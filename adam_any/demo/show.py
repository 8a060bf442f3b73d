"""Show the array libraries found, the engine that each of them gets, and Adam at work.

The demo minimises a function with a known answer on every library, trains a classifier of
handwritten digits on one of them, and times one large step.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from . import digits, notebook, places, speed
from .digits import Classifier, Epoch
from .places import Place, UnusableError

if TYPE_CHECKING:  # imported where they are used, once `run` knows that they are installed
    from rich.console import Console
    from rich.table import Table

#: The package of each module that the demo may need.
PACKAGES = {"rich": "rich", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def run(library: str, plot: Path | None) -> list[str]:
    """Run everything and print it; return a sentence for each result that is wrong."""
    _require("rich", "sklearn", *(["matplotlib"] if plot else []))
    if plot:
        _require_writable(plot)
    from rich.console import Console

    # JAX would reserve three quarters of a GPU's memory, and leave little for the other libraries.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    console = Console(highlight=False, markup=False)
    with console.status("importing the array libraries"):
        place = places.places(library)[-1]  # first, since this may raise
        found, unusable = places.survey()
    _show_libraries(console, found, unusable)
    wrong = _show_notebook(console, found)
    wrong += _show_digits(console, place, plot)
    _show_speed(console)
    return wrong


def _require(*modules: str) -> None:
    missing = [PACKAGES[module] for module in modules if find_spec(module) is None]
    if missing:
        names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
        raise UnusableError(f"{names} {verb} not installed: pip install 'adam-any[demo]'")


def _require_writable(path: Path) -> None:
    """Raise UnusableError now if the plot could not be saved after all the work."""
    if path.suffix.lower() != ".png":
        raise UnusableError(f"the plot is a PNG, so {str(path)!r} must end in .png")
    new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        why = f"the plot cannot be saved to {str(path)!r}: {error.strerror}"
        raise UnusableError(f"{why}; give --plot another path") from None
    if new:
        path.unlink()


# The four parts -----------------------------------------------------------------------------------


def _show_libraries(console: Console, found: Sequence[Place], unusable: Sequence[str]) -> None:
    table = _table("Array libraries found", "Library", "Version", "Device", "Engine", "Why")
    for place in found:
        choice = place.explain()[0]
        table.add_row(place.library, place.version, place.where, choice.engine, choice.reason)
    console.print(table, "", *unusable, *([""] if unusable else []), sep="\n")


def _show_notebook(console: Console, found: Sequence[Place]) -> list[str]:
    title = "The notebook's experiment: minimise m^2 - 2m + 1 from 0, in float64"
    table = _table(title, "Library", "Iterations", "Weight", "Bias", "Deviation")
    wrong = []
    for place in found:
        with console.status(f"the notebook's experiment on {place.label}"):
            row, failure = _notebook_row(place)
        table.add_row(place.label, *row)
        if failure:
            wrong.append(f"{place.label}: {failure}")
    console.print(table)
    lazy = any(place.library in notebook.MOST for place in found)
    console.print(
        "\nThis package grew from a Jupyter notebook with an Adam written by hand in NumPy. Its "
        "experiment is repeated here until the weight stops changing. Deviation is the largest "
        "difference between weight or bias and the weights printed in the notebook for iterations "
        f"{notebook.NOTEBOOK_FIRST} to {notebook.NOTEBOOK_LAST}; up to "
        f"{notebook.DEVIATION_ALLOWED:.0e} is allowed. In the notebook the bias became NaN at the "
        "first step, because its gradient was not squared."
        + (" Dask, whose steps take 10 to 20 ms, stops after those iterations.\n" if lazy else "\n")
    )
    return wrong


def _notebook_row(place: Place) -> tuple[list[str], str | None]:
    try:
        descent = notebook.descend(place)
    except Exception as error:  # one broken library must not hide the results of the others
        return ["failed"], f"{type(error).__name__}: {places.first_line(error)}"
    iterations = f"{'' if descent.converged else 'over '}{descent.iterations}"
    weight, bias = repr(descent.weight), repr(descent.bias)
    return [iterations, weight, bias, f"{descent.deviation:.1e}"], descent.failure


def _show_digits(console: Console, place: Place, plot: Path | None) -> list[str]:
    data = digits.load_digits()
    classifier = Classifier(place, data)
    epochs = _train(console, classifier)
    accuracy = _percent(epochs[-1].test_accuracy)
    expected = _percent(digits.ACCURACY_EXPECTED)
    engines = dict.fromkeys((c.engine, c.reason) for c in classifier.optimizer.explain())

    table = _table("Handwritten digits: a neural network with two layers", "", "")
    table.show_header = False
    table.add_row("arrays", f"{place.library} {place.version} on {place.where}, float32")
    table.add_row("images", f"{len(data.train_x):,} for training, {len(data.test_x)} for testing")
    table.add_row("test accuracy", f"{accuracy} (at least {expected} is expected)")
    table.add_row("optimizer step", _step_time(classifier))
    for engine, reason in engines:
        table.add_row("engine", f"{engine}: {reason}")
    if plot:
        _draw(plot, place, epochs)
        table.add_row("plot", str(plot))
    console.print(table)
    if epochs[-1].test_accuracy >= digits.ACCURACY_EXPECTED:
        return []
    return [f"{place.label}: the test accuracy is {accuracy}; at least {expected} is expected"]


def _show_speed(console: Console) -> None:
    with console.status("timing a large step"):
        choice, chosen, reference = speed.compare()
    console.print(
        f"\nOne step of {speed.ELEMENTS:,} float32 parameters in NumPy takes {1e3 * chosen:.0f} ms "
        f"with the engine {choice.engine}, and {1e3 * reference:.0f} ms "
        f"({reference / chosen:.1f} times as long) as one NumPy operation after another, the way "
        "it is written by hand."
    )


# How it is shown ----------------------------------------------------------------------------------


def _train(console: Console, classifier: Classifier) -> list[Epoch]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("handwritten digits", total=digits.EPOCHS)

        def seen(epoch: Epoch) -> None:
            text = f"handwritten digits: test accuracy {_percent(epoch.test_accuracy)}"
            progress.update(task, advance=1, description=text)

        return classifier.train(seen)


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
    """Save a plot of loss and accuracy, drawn by Agg, which needs no screen."""
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
    upper.semilogy(count, [epoch.loss for epoch in epochs], label="training images, with noise")
    upper.semilogy(count, [epoch.test_loss for epoch in epochs], label="test images")
    upper.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    upper.yaxis.set_major_formatter("{x:g}")
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set_ylabel("loss (cross-entropy)")
    upper.legend(frameon=False)
    lower.plot(count, [100 * epoch.test_accuracy for epoch in epochs], color="C1")
    lower.axhline(100 * digits.ACCURACY_EXPECTED, color="0.6", linewidth=0.8, zorder=0)
    lower.annotate(
        f"{_percent(digits.ACCURACY_EXPECTED)} expected",
        (1, 100 * digits.ACCURACY_EXPECTED),
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
