"""How many files launcher and server may have open, and what that is divided into.

Connections get half of what a server needs not for itself, sandboxes the other half, so that
neither callers nor instances can leave the other without any.
"""

import resource

LEAST = 1024  # as many as a handler may have; crun cannot give it more than the launcher has
# Standard streams, event loop, listener, database, spool, and what a request opens for a moment.
OWN = 64
# A sandbox with a network of its own needs most: processes, namespace, tap device, rules. Of the
# server it needs two.
OF_A_SANDBOX = 6


def limit() -> int:
    """Files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Raises the limit to what it may be raised to, also for the processes that are started from
    here on; sandboxes have one of their own. Returns it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections(files: int) -> int:
    """Connections that a server with so many files may have at once."""
    return (files - OWN) // 2


def sandboxes(files: int) -> int:
    """Sandboxes that a launcher with so many files may have at once."""
    return (files - OWN) // OF_A_SANDBOX
