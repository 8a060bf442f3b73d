"""The main job, computed: what `python -m adam_any` runs and shows. Nothing here prints."""
