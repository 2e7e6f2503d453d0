"""A request that one node forwards to another: its data, its response, and reasons to refuse it."""

from enum import StrEnum

import msgspec

from quiltfn.model.access import Caller
from quiltfn.model.pool_load import PoolLoad


class Refusal(StrEnum):
    """Why a node refuses a forwarded invocation, before it has done any of it.

    busy: no instance is ready or may be started. version: the function has another version there.
    draining: the node takes no invocations.
    """

    BUSY = "busy"
    VERSION = "version"
    DRAINING = "draining"


class ForwardedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the node that received a request knows of it; the node that responds has to trust this.

    `function_id`, `invocation_id`: of the invocation; empty if all nodes are asked for what each of
    them has. `caller`: None for a request to a function URL without a credential. `client`: the
    address that the request came from. `version`: the number of the version to run; None: the
    request is about an invocation that runs on the other node. `may_wait`: the invocation waits
    there if no instance is ready; `in_any_case`: even if that node may not start one yet.
    """

    client: str
    function_id: str = ""
    invocation_id: str = ""
    caller: Caller | None = None
    version: int | None = None
    may_wait: bool = False
    in_any_case: bool = False


class ForwardedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node adds to its response to another node. `refusal`: why it has not taken the
    invocation. `executed`: as in the response. `load`: the current load of the function's pool
    there.
    """

    refusal: Refusal | None = None
    executed: bool = True
    load: PoolLoad | None = None
