"""How many files the launcher may open, and so how many sandboxes there can be.

The server has the same limit. It keeps half of it for connections (`server/launch_context.py`), so
that neither callers nor instances can leave the other without any.
"""

import resource

# Sandboxes may have more (`SandboxLimits.open_files`), but not more than this process.
LEAST = 1024
# Standard streams, event loop, signals, the server's channel, and what a verb opens for a moment.
OWN = 64
# The most that one sandbox needs in the launcher, if it has egress: processes, namespace, tap
# device and rules. It needs two in the server; one of a web server four, and one for each request.
OF_A_SANDBOX = 6


def limit() -> int:
    """Files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Raises the limit to the hard limit and returns it. Processes that are started later inherit
    it; sandboxes have a limit of their own.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sandboxes(files: int) -> int:
    """Sandboxes that a launcher with so many files may have at once."""
    return (files - OWN) // OF_A_SANDBOX
