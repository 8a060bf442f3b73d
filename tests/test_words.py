"""How messages name things: a bare array is "the parameter", and nothing long is printed whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adam_any
from adam_any import Adam
from adam_any.words import few, shown


def one() -> Any:
    return np.ones(2)


BARE = {
    "parameter": lambda: Adam(np.ones(2, int)),
    "gradient": lambda: Adam(one()).step(np.ones(2, int)),
    "shape": lambda: Adam(one()).step(np.ones(3)),
    "structure": lambda: Adam(one()).step([one()]),
    "new value": lambda: setattr(Adam(one()), "params", np.ones(3)),
    "itself": lambda: Adam(np.lib.stride_tricks.as_strided(one(), (2, 2), (8, 8))),
    "epsilon": lambda: Adam(np.ones(2, "f4"), eps=1e-60),
    "finite": lambda: Adam(one(), nonfinite="raise").step(np.full(2, np.nan)),
    "state": lambda: Adam(one()).load_state_dict(wrong()),
}


def wrong() -> Any:
    state = Adam(one()).state_dict()
    state["state"][""]["m"] = np.ones(3)
    return state


@pytest.mark.parametrize("what", BARE)
def test_a_bare_array_is_named_in_words(what: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        BARE[what]()
    message = str(error.value)
    assert "''" not in message
    assert message.startswith(("the parameter", "the gradient", "the new parameter"))


def test_the_table_names_a_bare_array_and_is_what_is_shown() -> None:
    p = np.ones(2)
    p.flags.writeable = False
    table = Adam(p).explain()
    assert repr(table) == str(table)
    head, row = repr(table).splitlines()
    assert head.startswith("PATH") and row.startswith("the parameter  numpy")
    assert "the parameter is read-only" in row and "''" not in row


def test_long_lists_and_values_are_cut_short() -> None:
    assert few([1, "b"]) == "[1, 'b']"
    assert few(range(1000)) == "[0, 1, 2, 3, 4, and 995 more]"
    assert shown(0.5) == "0.5"
    assert len(shown("x" * 1000)) < 200
    assert shown(10**5000) == "an int that is too long to print"


def test_what_is_public_is_shown() -> None:
    names = {"Adam", "AdamW", "Optimizer", "functional", "interop", "rules"}
    assert names <= set(dir(adam_any)) == set(adam_any.__all__) | {"__version__"}
    assert all(hasattr(adam_any, name) for name in dir(adam_any))
