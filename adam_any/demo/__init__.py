"""The demo behind `python -m adam_any`: `show` prints; the other modules compute."""
