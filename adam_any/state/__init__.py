"""The state of an optimizer in and out: as a dict (`state_dict`), and in a file (`file`)."""
