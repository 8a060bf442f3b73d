"""The soak: many optimizers of random trees, stepped by several threads, while things go wrong.

    python -m bench soak --minutes 10
    python -m bench soak --seed 1017      repeat the generation in which a run with a seed up to
                                          that one found a mismatch; it comes first

Nothing that happens to an optimizer may show in its numbers. So each has two shadows, to which
nothing happens but steps: where the package promises bits, a twin on the reference engine; and for
every leaf Adam in long double, on its own terms, which would notice if both were wrong alike.

Optimizers live in generations. Between two of them nothing is alive, and the memory of the process
is read: what grows there has been lost.

`oracle` is the independent Adam; `leaves` and `trees` are what is stepped, `shadows` what each
optimizer should be, `subject` one with its shadows, `faults` what happens to it, `memory` what
counts as growth, `run` the whole of it, and `report` what comes out.
"""
