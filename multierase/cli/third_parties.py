"""Notices of other libraries that are not about what the user did, and that nobody can act on."""

from __future__ import annotations

import logging
import os

NOTICES = {
    # It takes a slower way to prepare pictures, which no base of ours is given.
    "transformers.utils.import_utils": "requires torchvision (not installed); falling back to",
    # Faster four-bit kernels for CPUs. Nothing here computes in four bits.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
}
"""By logger, how the messages read that are left out. All others of the same loggers are shown."""


def quieten() -> None:
    """Leave out these notices, and the bars of a few files that are loaded in a moment.

    It belongs to the program alone: ``import multierase`` changes nobody's logging.
    """
    for name, notice in NOTICES.items():
        logging.getLogger(name).addFilter(_Without(notice))

    # tqdm reads it when it is imported, as the default: our own bars and those of downloads say
    # for themselves whether they are shown, those of diffusers' and transformers' loading do not.
    os.environ.setdefault("TQDM_DISABLE", "1")


class _Without(logging.Filter):
    def __init__(self, notice: str):
        super().__init__()
        self.notice = notice

    def filter(self, record: logging.LogRecord) -> bool:
        return self.notice not in str(record.msg)
