"""The benchmark: every competitor in one process and one harness, taking turns.

    python -m bench cpu                    measure, and print the tables
    python -m bench gpu                    the same on a CUDA device
    python -m bench gpu --everything OUT   all that a GPU is needed for, in ten minutes
    python -m bench show results.json      print a saved result again

Wait for a quiet machine. Tables are as wide as the terminal; `COLUMNS=170` widens them for a file.

`workloads` is what is stepped; `competitors`, `wrapped` and `on_device` are who steps it, and
`limit` what memory allows; `harness` is how time is taken. `cpu`, with `figures`, and `gpu`, on the
device of `cuda`, put them together. `results` is what comes out; `report` and `picture` show it.

`everything` runs the GPU's tests, `contact`, `sweep` and `gpu`, and puts a `page` together.
"""
