"""A request that one node forwards to another: its data, its response, and reasons to refuse it."""

from enum import StrEnum

import msgspec

from quiltfn.model.access import Caller
from quiltfn.model.pool_load import PoolLoad


class Refusal(StrEnum):
    """Why a node refuses a forwarded invocation before doing anything for it.

    busy: no instance is ready or may be started. version: the function has another version there.
    draining: the node takes no invocations.
    """

    BUSY = "busy"
    VERSION = "version"
    DRAINING = "draining"


class ForwardedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data of a request from the node that received it, which the responding node has to trust.

    `function_id`, `invocation_id`: those of the invocation; empty in a request to all nodes.
    `caller`: None for a request to a function URL without a credential. `client`: the address that
    the request came from. `version`: the number of the version to run; None: the request runs
    nothing. `may_wait`: if no instance is ready there, the invocation waits; `in_any_case`: even if
    the other node may not start an instance yet.
    """

    client: str
    function_id: str = ""
    invocation_id: str = ""
    caller: Caller | None = None
    version: int | None = None
    may_wait: bool = False
    in_any_case: bool = False


class ForwardedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Data that a node adds to its response to another node. `refusal`: why it refused the
    invocation. `executed`: as in the response. `load`: the current load of the function's pool
    there.
    """

    refusal: Refusal | None = None
    executed: bool = True
    load: PoolLoad | None = None
