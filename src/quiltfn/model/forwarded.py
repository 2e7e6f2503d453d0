"""A call that one node sends on to another: what is said of it, and why it may be refused."""

from enum import StrEnum

import msgspec

from quiltfn.model.access import Caller
from quiltfn.model.pool_load import PoolLoad


class Refusal(StrEnum):
    """Why a node takes no call from another one, before anything of it was done.

    busy: no instance is ready, or may be had. version: its function points to another version.
    draining: it takes no calls.
    """

    BUSY = "busy"
    VERSION = "version"
    DRAINING = "draining"


class ForwardedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the node that was asked knows of a request, and the one that answers it has to take its
    word for. `function_id`, `invocation_id`: the call's; empty where all nodes are asked for what
    each of them has. `caller`: None where a URL is called without a credential. `client`: the
    address that it came from. `version`: the number of the one to run; None: the request is about a
    call that runs there. `may_wait`: the call is to wait there if no instance is ready;
    `in_any_case`: even if the node may not start one yet.
    """

    client: str
    function_id: str = ""
    invocation_id: str = ""
    caller: Caller | None = None
    version: int | None = None
    may_wait: bool = False
    in_any_case: bool = False


class ForwardedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node says to another one with its response. `refusal`: it has not taken the call.
    `executed`: as of the response. `load`: how the function's pool is there now.
    """

    refusal: Refusal | None = None
    executed: bool = True
    load: PoolLoad | None = None
