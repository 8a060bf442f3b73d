"""Shared by the `cpu` and `cuda` wings: programs, operations, tables, generated files."""
