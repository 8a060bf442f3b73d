"""The benchmark: every competitor in one process and one harness, taking turns.

    python -m bench cpu                    measure, and print the tables
    python -m bench gpu                    the same on a CUDA device
    python -m bench show results.json      print a saved result again

Wait for a quiet machine. Tables are as wide as the terminal; `COLUMNS=170` widens them for a file.

`workloads` says what is stepped, `competitors` and `on_device` who steps it, `limit` what a memory
allows, `harness` how the time is taken; `cpu` and `gpu` put them together, `cuda` is the device.
`results` is what comes out, `report`, `picture` and `readme` show it, `targets` is what is to be
reached on a GPU.
"""
