"""The one error type of the set-up: a message for people, and exit code 1."""

import errno


class SetupError(Exception):
    """What was found, what was expected, what to do."""


def disk_full(path, error):
    """A SetupError when `error` says that the disk is full, else None."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(
            f"the disk ran full while writing {path}. What was downloaded whole is kept; "
            "free some space and run `make setup` again"
        )
    return None


def size(count):
    """`count` bytes in words: 530.6 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
