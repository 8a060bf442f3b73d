"""Attacks by way of checkpoints."""

from __future__ import annotations

from ..subject import Subject


def saved_and_loaded(subject: Subject) -> str:
    """Save and load: into the same optimizer, or a fresh one, through a file or a dict."""
    opt = subject.opt if subject.random.random() < 0.5 else subject.fresh(subject.values())
    if subject.random.random() < 0.8:
        subject.opt.save(subject.file)
        opt.load(subject.file)
    else:
        opt.load_state_dict(subject.opt.state_dict())
    subject.adopt(opt)
    return "state saved and loaded"


def rewound(subject: Subject) -> str:
    """Take steps back: parameters by hand, the rest from a file."""
    kept = subject.values()
    subject.opt.save(subject.file)
    for _ in range(3):
        subject.take(subject.opt.step(subject.gradients()[-1]))
    subject.restore(kept)
    return "steps taken back"


def damaged(subject: Subject) -> str:
    """Load a file that has lost its end, or in which a bit is turned."""
    subject.opt.save(subject.file)
    content = bytearray(subject.file.read_bytes())
    at = int(subject.random.integers(len(content)))
    if subject.random.random() < 0.5:
        del content[at:]
    else:
        content[at] ^= 1 << int(subject.random.integers(8))
    subject.file.write_bytes(content)
    subject.refuses(lambda: subject.opt.load(subject.file), ValueError)
    return "damaged file refused"
