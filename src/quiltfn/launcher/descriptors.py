"""The limit on the launcher's open files, and the number of sandboxes that it allows.

The server has the same limit. It reserves half of it for connections (`server/launch_context.py`),
so that neither callers nor instances can use up all descriptors.
"""

import resource

# The minimum for the launcher. A sandbox's limit (`SandboxLimits.open_files`) may be higher than
# this, but not above the launcher's actual limit.
LEAST = 1024
# Standard streams, event loop, signals, the server's channel, and files that a verb opens briefly.
OWN = 64
# The maximum for one sandbox in the launcher, reached with egress: processes, namespace, tap device
# and rules. In the server, a sandbox needs two descriptors; a web server's sandbox needs four, and
# one more for each request.
OF_A_SANDBOX = 6


def limit() -> int:
    """The limit on open files of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Raises the limit to the hard limit and returns it. Processes started later inherit it;
    sandboxes have their own limit.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def sandboxes(files: int) -> int:
    """The number of sandboxes that a launcher with this limit on open files can have at once."""
    return (files - OWN) // OF_A_SANDBOX
