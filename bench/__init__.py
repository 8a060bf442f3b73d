"""The benchmark: every competitor in one process and one harness, taking turns.

    python -m bench cpu                    measure, and print the tables
    python -m bench show results.json      print a saved result again

Wait for a quiet machine. Tables are as wide as the terminal; `COLUMNS=170` widens them for a file.

`workloads` says what is stepped, `competitors` who steps it, `limit` what the memory allows,
`harness` how the time is taken, `cpu` puts them together; `results` is what comes out, `report` and
`picture` show it.
"""
