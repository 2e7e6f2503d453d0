"""Schemas of the HTTP API: every field once, with its type, limits, meaning, and example.

The server, the client library and the command line use these types. This package imports none of
them, only msgspec and, to check schedules, cronsim.
"""

from quiltfn.wire.schemas import *
