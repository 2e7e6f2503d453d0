"""The command line: what a person types, on top of the client library."""

from quiltfn.cli.root import main, run

__all__ = ["main", "run"]
