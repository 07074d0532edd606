"""Workers of a sweep that end badly; apart, so that their processes start at once."""

import os
import signal


def killed(connection, *_):
    """Is killed in its first trial, after an epoch of it."""
    connection.recv()
    connection.send((1, 0.5))
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)
