"""Schemas of the HTTP API: every field once, with its type, limits, meaning, and example.

The server, the client library and the command line use these very types. This package knows none of
them, and nothing but msgspec.
"""

from quiltfn.wire.schemas import *
