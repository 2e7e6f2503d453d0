"""Every route: its path, methods, scope, parameters, and responses."""

from quiltfn import wire
from quiltfn.api import (
    aliases,
    deliveries,
    elasticity,
    events,
    function_list,
    functions,
    instances,
    invocation_list,
    live_call,
    logs,
    nodes,
    pages,
    parse,
    quotas,
    runtimes,
    schedules,
    stats,
    system,
    tenants,
    url_calls,
    urls,
    version_files,
    web,
    work,
)
from quiltfn.api.byte_range import OCTETS
from quiltfn.api.event_stream import EVENT_STREAM
from quiltfn.api.openapi import VISIBLE
from quiltfn.api.response import FUNCTION_VERSION, INVOCATION_ID
from quiltfn.api.route import ANY_METHOD, Called, Found, Handler, Parameter, Route, Unverified
from quiltfn.functions.function_list import FunctionSort, Order
from quiltfn.model.access import Scope
from quiltfn.model.delivery import DeliveryStatus
from quiltfn.model.event import WORDS
from quiltfn.model.image import UPLOADED, Archive
from quiltfn.model.invocation import Source, Status
from quiltfn.model.output import STREAMS
from quiltfn.model.stats import STEPS
from quiltfn.wire.numbers import VERSION_NUMBER_MAX
from quiltfn.wire.stats import USAGE_STEPS

READ, INVOKE, WRITE, ADMIN = Scope.READ, Scope.INVOKE, Scope.WRITE, Scope.ADMIN
OPERATOR = Scope.OPERATOR
FUNCTION = "/api/functions/{function_id}"
TARGET = "/functions/{function_id}/pool-target"
CALL_BY_ID, CALL_BY_NAME = FUNCTION + "/invoke", "/api/functions/invoke/{name}"

# A time in Unix seconds.
MOMENT = {"type": "integer", "minimum": 0, "maximum": parse.UNIX_MAX}
LIMIT = Parameter(
    name="limit",
    about="the largest number of entries of the page",
    schema={"type": "integer", "minimum": 1, "maximum": pages.PAGE_MAX},
    example=50,
)
CURSOR = Parameter(
    name="cursor",
    about="next_cursor of the previous page",
    schema={"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
)
STATE = Parameter(
    name="state",
    about="only functions in this state",
    schema={"enum": list(function_list.LISTED_STATES)},
)
CLUSTER = Parameter(name="cluster_id", about="only functions with this label")
TEXT = Parameter(
    name="q",
    about="only functions with this text in their name or description, in small or capital letters",
    schema={"type": "string", "minLength": 1, "maxLength": function_list.TEXT_MAX_CHARACTERS},
    example="hello",
)
OUTDATED = Parameter(
    name="outdated",
    about="true: only functions whose runtime was replaced since their version was made, and which "
    "get it with their next update; false: only the others",
    schema={"type": "boolean"},
)
SORT = Parameter(
    name="sort",
    about="what the list is sorted by; created_at by default",
    schema={"enum": list(FunctionSort)},
)
ORDER = Parameter(
    name="order", about="asc, the default, or desc", schema={"enum": list(Order)}, example="desc"
)
VIEW = Parameter(
    name="view",
    about="brief: without handler and environment",
    schema={"enum": list(function_list.VIEWS)},
)
STATUS = Parameter(
    name="status", about="only calls with this status", schema={"enum": list(Status)}
)
DELIVERY_STATUS = Parameter(
    name="status",
    about="only deliveries with this status",
    schema={"enum": list(DeliveryStatus)},
)
CONTENTS = Parameter(
    name="contents",
    about="what the archive holds: files for /app, the default; rootfs, a root file system; or "
    "image, an execution image as an OCI layout or as docker save writes it",
    schema={"enum": list(UPLOADED)},
    example="rootfs",
)
COLD = Parameter(
    name="cold_start",
    about="true: only cold starts; false: only warm calls",
    schema={"type": "boolean"},
)
SLOW = Parameter(
    name="min_duration_ms",
    about="only calls that took at least this many milliseconds",
    schema={"type": "integer", "minimum": 0, "maximum": invocation_list.DURATION_MAX_MS},
)
SOURCE = Parameter(
    name="source", about="only calls that this asked for", schema={"enum": list(Source)}
)
VERSION = Parameter(
    name="version",
    about="only calls that this version ran",
    schema={"type": "integer", "minimum": 1, "maximum": VERSION_NUMBER_MAX},
)
SINCE = Parameter(
    name="from",
    about="only calls that were accepted at this time or later, in Unix seconds",
    schema=MOMENT,
)
UNTIL = Parameter(
    name="to",
    about="only calls that were accepted before this time, in Unix seconds",
    schema=MOMENT,
)
OF_FUNCTION = Parameter(name="function_id", about="only those of this function")
OF_LABEL = Parameter(name="cluster_id", about="only those of functions with this label")
OF_ONE = Parameter(name="function_id", about="only calls of this function")
FUNCTION_OF_INSTANCES = Parameter(name="function_id", about="only instances of this function")
STREAM = Parameter(
    name="stream",
    about="which stream; stdout by default",
    schema={"enum": list(STREAMS)},
)
RANGE = Parameter(name="Range", where="header", about="a part of the output, such as bytes=0-1023")
WITH_OUTPUT = Parameter(
    name="output",
    about="full, or none to leave stdout and stderr empty",
    schema={"enum": list(invocation_list.OUTPUTS)},
)
FORMAT = Parameter(name="format", about="markdown or json", schema={"enum": ["json", "markdown"]})
IF_MATCH = Parameter(
    name="If-Match",
    where="header",
    about="make the change only if what is changed still has this ETag",
)
IDEMPOTENCY = Parameter(
    name="Idempotency-Key",
    where="header",
    about="within 24 hours, a repetition with the same key, query and body gets the first response",
    schema=VISIBLE,
)
TENANT = Parameter(
    name="X-Tenant-Id",
    where="header",
    required=True,
    about="the tenant that the request is about",
    schema=VISIBLE,
)
ONCE = Parameter(
    name="Idempotency-Key",
    where="header",
    required=True,
    about="the operation happens once for each key",
    schema=VISIBLE,
)
ACTION_ID = Parameter(
    name="X-Orch-Action-Id",
    where="header",
    required=True,
    about="your name for the action",
    schema=VISIBLE,
)
ON_DISCONNECT = Parameter(
    name="X-On-Disconnect",
    where="header",
    about="cancel: the call ends when its caller goes away; continue, the default: it goes on",
    schema={"enum": list(live_call.ON_DISCONNECT)},
)
FOLLOW = Parameter(
    name="follow",
    about="true: as server-sent events, as it is written; as Accept: text/event-stream",
    schema={"type": "boolean"},
)
ONE_STREAM = Parameter(
    name="stream", about="only this stream; both by default", schema={"enum": list(STREAMS)}
)
TAIL = Parameter(
    name="tail",
    about="begin with so many of the last lines",
    schema={"type": "integer", "minimum": 0, "maximum": logs.TAIL_MAX},
)
OFFSET = Parameter(
    name="offset",
    about="begin behind the event with this id; with stream, behind so many bytes of it",
    schema={"type": "string", "pattern": "^[0-9]{1,15}(-[0-9]{1,15})?$"},
)
FOLLOW_EVENTS = Parameter(
    name="follow",
    about="true, unless Accept names text/event-stream",
    schema={"type": "boolean"},
    example=True,
)
REVEAL = Parameter(
    name="reveal",
    about="true: with the secret of webhooks, which needs scope write",
    schema={"type": "boolean"},
)
OF_FUNCTION = Parameter(name="function_id", about="only what happens to this function")
EVENT_TYPES = Parameter(
    name="types",
    about=f"only these, with commas: {', '.join(WORDS)}",
    example="function,invocation.ended",
)
LAST_EVENT = Parameter(
    name="Last-Event-ID", where="header", about="begin behind the event with this id"
)
MODE = Parameter(
    name="mode",
    about="async: answer 202 once the call is queued, as Prefer: respond-async; sync: wait",
    schema={"enum": ["sync", "async"]},
)
PREFER = Parameter(
    name="Prefer",
    where="header",
    about="respond-async: answer 202 once the call is queued",
)
DELAY = Parameter(
    name="delay_seconds",
    about="of an asynchronous call: start it so many seconds from now at the earliest",
    schema={"type": "integer", "minimum": 0, "maximum": work.DELAY_MAX_S},
)
NOT_BEFORE = Parameter(
    name="not_before",
    about="of an asynchronous call: start it at this time at the earliest, in Unix seconds, at "
    "most a year from now",
    schema=MOMENT,
)
CALLED_VERSION = Parameter(
    name="version",
    about="run this version and not the current one; any but that takes scope write, unless an "
    "alias names it",
    schema={"type": "integer", "minimum": 1, "maximum": VERSION_NUMBER_MAX},
)
CALLED_ALIAS = Parameter(
    name="alias", about="run the version that this alias of the function names", example="live"
)
WAIT = Parameter(
    name="wait_seconds",
    about="answer as soon as the call is over, else after so many seconds",
    schema={"type": "integer", "minimum": 0, "maximum": work.WAIT_MAX_S},
)
ACTION = Parameter(
    name="action",
    about="only this action, such as function.create, or all of its kind: function",
)
CREDENTIAL = Parameter(name="credential", about="only what this key or token did, by its id")
OBJECT = Parameter(
    name="object_id", about="only what was done to this, such as a function, by its id"
)
ENTRIES_SINCE = Parameter(
    name="from",
    about="only what was done at this time or later, in Unix seconds",
    schema=SINCE.schema,
)
ENTRIES_UNTIL = Parameter(
    name="to", about="only what was done before this time, in Unix seconds", schema=SINCE.schema
)
DEFAULT_ALIAS = Parameter(
    name="default_alias",
    about="move: the default alias of the function, if it has one, is the version that is current "
    "then; keep: it stays, and so do calls that name no version. Without it an update that leaves "
    "the code as it is keeps an alias that names another version than the current one; all else "
    "moves it",
    schema={"enum": list(functions.MOVES)},
    example="keep",
)
PLACED = ("CAPACITY_FULL", "RUNTIME_UNAVAILABLE", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE")
GONE = ("NOT_FOUND",)

CREATE = Route(
    handler=functions.create_function,
    scope=WRITE,
    answer=wire.CreatedFunction,
    status=201,
    body=wire.NewFunction,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CONFLICT", "RATE_LIMITED", "CAPACITY_FULL"),
    action="function.create",
)
LIST = Route(
    handler=function_list.list_functions,
    scope=READ,
    answer=wire.FunctionPage | wire.FunctionSummaryPage,
    parameters=(LIMIT, CURSOR, STATE, CLUSTER, TEXT, OUTDATED, SORT, ORDER, VIEW),
)
GET = Route(
    handler=functions.get_function,
    scope=READ,
    answer=wire.Function,
    headers=("x-function-url",),
)
UPDATE = Route(
    handler=functions.update_function,
    scope=WRITE,
    answer=wire.Function,
    body=wire.FunctionChanges,
    parameters=(IF_MATCH, DEFAULT_ALIAS),
    codes=("RATE_LIMITED", "CONFLICT", "PRECONDITION_FAILED"),
    action="function.update",
)
DELETE = Route(handler=functions.delete_function, scope=WRITE, status=204, action="function.delete")
DEPLOY = Route(
    handler=functions.deploy_function,
    scope=WRITE,
    answer=wire.Function,
    codes=("UNPROCESSABLE_ENTITY",),
    action="function.deploy",
)
PAUSE = Route(
    handler=functions.pause_function,
    scope=WRITE,
    answer=wire.PauseResult,
    codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
    action="function.pause",
    for_visitors=True,
)
RESUME = Route(
    handler=functions.resume_function,
    scope=WRITE,
    answer=wire.Function,
    codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
    action="function.resume",
    for_visitors=True,
)


def invoking(handler: Handler, found: Found, called: Called) -> Route:
    return Route(
        handler=handler,
        scope=INVOKE,
        answer=wire.Invocation,
        body=wire.NewInvocation,
        needs_body=False,
        is_invoke=True,
        is_idempotent=True,
        parameters=(
            IDEMPOTENCY,
            ON_DISCONNECT,
            PREFER,
            MODE,
            DELAY,
            NOT_BEFORE,
            CALLED_VERSION,
            CALLED_ALIAS,
        ),
        texts=(EVENT_STREAM,),
        codes=(*PLACED, "CONFLICT"),
        also={202: wire.Invocation},
        headers=(INVOCATION_ID, FUNCTION_VERSION, "server-timing", "x-output-truncated"),
        found=found,
        called=called,
    )


INVOCATIONS = Route(
    handler=invocation_list.list_invocations,
    scope=READ,
    answer=wire.InvocationPage,
    parameters=(LIMIT, CURSOR, STATUS, COLD, SLOW, SOURCE, VERSION, SINCE, UNTIL, WITH_OUTPUT),
)
ALL_INVOCATIONS = Route(
    handler=invocation_list.list_tenant_invocations,
    scope=READ,
    answer=wire.InvocationSummaryPage,
    parameters=(LIMIT, CURSOR, OF_ONE, STATUS, COLD, SLOW, SOURCE, VERSION, SINCE, UNTIL),
    codes=GONE,
)
INVOCATION = Route(
    handler=functions.get_invocation,
    scope=READ,
    answer=wire.Invocation,
    parameters=(WAIT,),
    headers=("x-output-truncated",),
    is_about_call=True,
)
OUTPUT = Route(
    handler=functions.get_invocation_output,
    scope=READ,
    answer=str,
    texts=(OCTETS,),
    also={206: bytes},
    parameters=(STREAM, RANGE),
    codes=("RANGE_NOT_SATISFIABLE",),
    headers=("x-output-truncated", "accept-ranges", "content-range"),
    is_about_call=True,
)
LOGS = Route(
    handler=logs.get_invocation_logs,
    scope=READ,
    answer=str,
    texts=("text/plain", EVENT_STREAM),
    parameters=(FOLLOW, ONE_STREAM, TAIL, OFFSET, LAST_EVENT),
    codes=("CAPACITY_FULL",),
    headers=("x-output-truncated",),
    is_about_call=True,
)
FUNCTION_LOGS = Route(
    handler=logs.get_function_logs,
    scope=READ,
    answer=str,
    texts=(EVENT_STREAM,),
    parameters=(FOLLOW, ONE_STREAM),
    codes=("CAPACITY_FULL",),
)
EVENTS = Route(
    handler=events.list_events,
    scope=READ,
    answer=str,
    texts=(EVENT_STREAM,),
    parameters=(FOLLOW_EVENTS, OF_FUNCTION, EVENT_TYPES, LAST_EVENT),
    codes=("CAPACITY_FULL", "NOT_FOUND"),
)
TIMELINE = Route(
    handler=functions.get_invocation_timeline,
    scope=READ,
    answer=wire.Timeline,
    is_about_call=True,
)
CANCEL = Route(
    handler=work.cancel_invocation,
    scope=INVOKE,
    answer=wire.Invocation,
    codes=("CONFLICT", "RUNTIME_UNAVAILABLE"),
    action="invocation.cancel",
    for_visitors=True,
    is_about_call=True,
)
ATTEMPTS = Route(
    handler=work.list_invocation_attempts,
    scope=READ,
    answer=wire.AttemptList,
    is_about_call=True,
)
INPUT = Route(handler=work.get_invocation_input, scope=WRITE, answer=wire.InvocationInput)
REPLAY = Route(
    handler=work.replay_invocation,
    scope=WRITE,
    answer=wire.Invocation,
    body=wire.Replay,
    needs_body=False,
    is_invoke=True,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=(*PLACED, "CONFLICT"),
    also={202: wire.Invocation},
    headers=(INVOCATION_ID, FUNCTION_VERSION, "server-timing", "x-output-truncated"),
    action="invocation.replay",
    found=work.accepted_by_id,
)
GET_ASYNC_POLICY = Route(handler=work.get_async_policy, scope=READ, answer=wire.AsyncPolicy)
SET_ASYNC_POLICY = Route(
    handler=work.set_async_policy,
    scope=WRITE,
    answer=wire.AsyncPolicy,
    body=wire.NewAsyncPolicy,
    action="async_policy.set",
)
DELETE_ASYNC_POLICY = Route(
    handler=work.delete_async_policy, scope=WRITE, status=204, action="async_policy.delete"
)
GET_RECORD_POLICY = Route(handler=work.get_record_policy, scope=READ, answer=wire.RecordPolicy)
SET_RECORD_POLICY = Route(
    handler=work.set_record_policy,
    scope=WRITE,
    answer=wire.RecordPolicy,
    body=wire.RecordPolicy,
    action="record_policy.set",
)
DEAD_LETTERS = Route(
    handler=work.list_dead_letters,
    scope=READ,
    answer=wire.DeadLetterPage,
    parameters=(LIMIT, CURSOR),
)
REDRIVE = Route(
    handler=work.redrive_dead_letters,
    scope=WRITE,
    answer=wire.RedriveResult,
    body=wire.Redrive,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CAPACITY_FULL", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE", "CONFLICT"),
    action="dead_letters.redrive",
)
DROP = Route(handler=work.delete_dead_letter, scope=WRITE, status=204, action="dead_letter.delete")
QUEUE = Route(handler=work.get_function_queue, scope=READ, answer=wire.FunctionQueue)
ALL_DEAD_LETTERS = Route(
    handler=work.list_tenant_dead_letters,
    scope=READ,
    answer=wire.DeadLetterPage,
    parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
    codes=GONE,
)
QUEUES = Route(
    handler=work.list_queues,
    scope=READ,
    answer=wire.QueuePage,
    parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
    codes=GONE,
)
GET_URL = Route(
    handler=urls.get_function_url, scope=READ, answer=wire.FunctionUrl, parameters=(REVEAL,)
)
SET_URL = Route(
    handler=urls.set_function_url,
    scope=WRITE,
    answer=wire.FunctionUrl,
    body=wire.NewFunctionUrl,
    action="url.set",
)
DELETE_URL = Route(handler=urls.delete_function_url, scope=WRITE, status=204, action="url.delete")
ALIASES = Route(handler=aliases.list_aliases, scope=READ, answer=wire.AliasList)
GET_ALIAS = Route(handler=aliases.get_alias, scope=READ, answer=wire.Alias)
SET_ALIAS = Route(
    handler=aliases.set_alias,
    scope=WRITE,
    answer=wire.Alias,
    body=wire.NewAlias,
    parameters=(IF_MATCH,),
    codes=("CONFLICT", "PRECONDITION_FAILED"),
    action="alias.set",
)
DELETE_ALIAS = Route(
    handler=aliases.delete_alias,
    scope=WRITE,
    status=204,
    parameters=(IF_MATCH,),
    codes=("CONFLICT", "PRECONDITION_FAILED"),
    action="alias.delete",
)
CALL_URL = Route(
    handler=url_calls.invoke_function_url,
    scope=None,
    admit=url_calls.admit,
    passes_on=url_calls.passes_on,
    on_refused=url_calls.count_refusal,
    called=url_calls.called,
    answer=str,
    is_invoke=True,
    texts=("*/*",),
    codes=(
        *PLACED,
        "UNAUTHORIZED",
        "RATE_LIMITED",
        "PAYLOAD_TOO_LARGE",
        "METHOD_NOT_ALLOWED",
        "HANDLER_FAILED",
        "HANDLER_TIMEOUT",
    ),
)
VERSIONS = Route(
    handler=functions.list_function_versions,
    scope=READ,
    answer=wire.VersionPage,
    parameters=(LIMIT, CURSOR),
)
VERSION_FILES = Route(
    handler=version_files.list_version_files,
    scope=READ,
    answer=wire.RuntimeFilePage,
    parameters=(LIMIT, CURSOR),
)
VERSION_FILE = Route(
    handler=version_files.get_version_file,
    scope=WRITE,
    answer=str,
    texts=(OCTETS,),
    also={206: bytes},
    parameters=(RANGE,),
    codes=("RANGE_NOT_SATISFIABLE",),
    headers=("accept-ranges", "content-range"),
)
ROLLBACK = Route(
    handler=functions.rollback_function,
    scope=WRITE,
    answer=wire.Function,
    body=wire.Rollback,
    codes=("RATE_LIMITED",),
    parameters=(DEFAULT_ALIAS,),
    action="function.rollback",
)
POOL = Route(handler=functions.get_function_pool, scope=READ, answer=wire.Pool)
EGRESS = Route(handler=functions.get_function_egress, scope=READ, answer=wire.Egress)
DELIVERIES = Route(
    handler=deliveries.list_deliveries,
    scope=READ,
    answer=wire.DeliveryPage,
    parameters=(LIMIT, CURSOR, DELIVERY_STATUS),
)
ALL_DELIVERIES = Route(
    handler=deliveries.list_tenant_deliveries,
    scope=READ,
    answer=wire.DeliveryPage,
    parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL, DELIVERY_STATUS),
    codes=GONE,
)
RETRY_DELIVERY = Route(
    handler=deliveries.retry_delivery,
    scope=WRITE,
    answer=wire.Delivery,
    codes=("CONFLICT",),
    action="delivery.retry",
)
WINDOW = Parameter(
    name="window",
    about="of the last so many seconds",
    schema={"type": "integer", "minimum": stats.WINDOW_MIN_S, "maximum": stats.WINDOW_MAX_S},
    example=3600,
)
STATS_LIMIT = Parameter(
    name="limit",
    about="the largest number of functions of the page",
    schema={"type": "integer", "minimum": 1, "maximum": stats.FUNCTIONS_MAX},
    example=50,
)
FROM = Parameter(
    name="from", about="what ended at this time or later, in Unix seconds", schema=MOMENT
)
TO = Parameter(
    name="to",
    about="what ended before this time, in Unix seconds; the end of the present second by default",
    schema=MOMENT | {"minimum": 1},
)
STATS_STEP = Parameter(
    name="step",
    about="how many seconds a point stands for",
    schema={"enum": [str(one) for one in STEPS]},
    example=60,
)
USAGE_STEP = Parameter(
    name="step",
    about="by hours or, by default, days of UTC; all: the whole time at once",
    schema={"enum": list(USAGE_STEPS)},
)
BY = Parameter(
    name="by",
    about="function: a row for each function; all together by default",
    schema={"enum": ["function"]},
)
STATS = Route(
    handler=stats.list_function_stats,
    scope=READ,
    answer=wire.FunctionStatsPage,
    parameters=(WINDOW, STATS_LIMIT, CURSOR),
)
SERIES = Route(
    handler=stats.get_function_series,
    scope=READ,
    answer=wire.Series,
    parameters=(FROM, TO, STATS_STEP),
)
USAGE = Route(
    handler=stats.get_usage,
    scope=READ,
    answer=wire.Usage,
    parameters=(FROM, TO, USAGE_STEP, BY),
)
QUOTA = Route(handler=quotas.get_tenant_quota, scope=READ, answer=wire.Quota)
SET_QUOTA = Route(
    handler=quotas.set_tenant_quota,
    scope=OPERATOR,
    answer=wire.Quota,
    body=wire.NewQuota,
    codes=("CAPACITY_FULL",),
    action="quota.set",
)
DELETE_QUOTA = Route(
    handler=quotas.delete_tenant_quota, scope=OPERATOR, status=204, action="quota.delete"
)
LIST_TENANTS = Route(
    handler=tenants.list_tenants,
    scope=OPERATOR,
    answer=wire.TenantPage,
    parameters=(LIMIT, CURSOR),
)
DISABLE_TENANT = Route(
    handler=tenants.disable_tenant,
    scope=OPERATOR,
    answer=wire.Tenant,
    codes=("NOT_FOUND", "UNPROCESSABLE_ENTITY", "CAPACITY_FULL"),
    action="tenant.disable",
)
ENABLE_TENANT = Route(
    handler=tenants.enable_tenant,
    scope=OPERATOR,
    answer=wire.Tenant,
    codes=("NOT_FOUND", "UNPROCESSABLE_ENTITY", "CAPACITY_FULL"),
    action="tenant.enable",
)
NODE_VIEW = Parameter(
    name="view",
    about="full: with functions that have instances there; brief by default",
    schema={"enum": list(nodes.VIEWS)},
)
LIST_NODES = Route(
    handler=nodes.list_nodes, scope=OPERATOR, answer=wire.NodeList, parameters=(NODE_VIEW,)
)
GET_NODE = Route(handler=nodes.get_node, scope=OPERATOR, answer=wire.Node, codes=("NOT_FOUND",))


NODE_CODES = ("NOT_FOUND", "CONFLICT")
DRAIN_NODE = Route(
    handler=nodes.drain_node,
    scope=OPERATOR,
    answer=wire.Node,
    codes=NODE_CODES,
    action="node.drain",
)
CORDON_NODE = Route(
    handler=nodes.cordon_node,
    scope=OPERATOR,
    answer=wire.Node,
    codes=NODE_CODES,
    action="node.cordon",
)
UNCORDON_NODE = Route(
    handler=nodes.uncordon_node,
    scope=OPERATOR,
    answer=wire.Node,
    codes=NODE_CODES,
    action="node.uncordon",
)
REMOVE_NODE = Route(
    handler=nodes.remove_node,
    scope=OPERATOR,
    status=204,
    codes=NODE_CODES,
    action="node.remove",
    parameters=(
        Parameter(
            name="force",
            about="remove it although images go with it that no other node has",
            schema={"type": "boolean", "default": False},
        ),
    ),
)
POOLS = Route(
    handler=function_list.list_function_pools,
    scope=READ,
    answer=wire.PoolList,
    parameters=(FUNCTION_OF_INSTANCES,),
)
POOL_STATS = Route(handler=functions.get_pool_stats, scope=READ, answer=wire.PoolStats)
TARGETS = Route(
    handler=elasticity.set_pool_target,
    scope=WRITE,
    answer=wire.Scaling,
    body=wire.PoolTarget,
    parameters=(TENANT,),
    action="elasticity.pool_target",
    for_visitors=True,
)
CONTROLLED = Route(
    handler=elasticity.create_pool_target_operation,
    scope=WRITE,
    answer=wire.Operation,
    body=wire.PoolTarget,
    parameters=(TENANT, ONCE, ACTION_ID),
    also={409: wire.Operation},
    action="elasticity.pool_target",
    for_visitors=True,
)
OPERATION = Route(handler=elasticity.get_operation, scope=READ, answer=wire.Operation)
MAKE_KEY = Route(
    handler=system.create_api_key,
    scope=ADMIN,
    answer=wire.CreatedKey,
    status=201,
    body=wire.NewKey,
    codes=("RATE_LIMITED", "CAPACITY_FULL"),
    action="key.create",
)
LIST_KEYS = Route(
    handler=system.list_api_keys,
    scope=ADMIN,
    answer=wire.KeyList,
    parameters=(LIMIT, CURSOR),
    for_visitors=True,
)
REVOKE_KEY = Route(handler=system.revoke_api_key, scope=ADMIN, status=204, action="key.revoke")
AUDIT = Route(
    handler=system.list_audit_entries,
    scope=ADMIN,
    answer=wire.AuditPage,
    parameters=(LIMIT, CURSOR, ACTION, CREDENTIAL, OBJECT, ENTRIES_SINCE, ENTRIES_UNTIL),
    for_visitors=True,
)
SHARED = Parameter(
    name="shared",
    about="true: the runtime that all tenants share; needs an operator's key",
    schema={"type": "boolean"},
)
LIST_RUNTIMES = Route(
    handler=runtimes.list_runtimes,
    scope=READ,
    answer=wire.RuntimeList,
    parameters=(LIMIT, CURSOR),
)
GET_RUNTIME = Route(handler=runtimes.get_runtime, scope=READ, answer=wire.Runtime)
RUNTIME_FILES = Route(
    handler=runtimes.list_runtime_files,
    scope=READ,
    answer=wire.RuntimeFilePage,
    parameters=(LIMIT, CURSOR),
)
RUNTIME_PACKAGES = Route(
    handler=runtimes.list_runtime_packages, scope=READ, answer=wire.RuntimePackageList
)
ADD_RUNTIME = Route(
    handler=runtimes.add_runtime,
    scope=WRITE,
    answer=wire.Runtime,
    status=201,
    body=wire.NewRuntime,
    codes=("CONFLICT", "RATE_LIMITED"),
    also={200: wire.Runtime},
    action="runtime.add",
)
REMOVE_RUNTIME = Route(
    handler=runtimes.remove_runtime,
    scope=WRITE,
    status=204,
    parameters=(SHARED,),
    codes=("CONFLICT",),
    action="runtime.remove",
)
UPLOAD_IMAGE = Route(
    handler=runtimes.upload_image,
    scope=WRITE,
    parameters=(CONTENTS,),
    answer=wire.Image,
    status=201,
    codes=("RATE_LIMITED", "CAPACITY_FULL"),
    also={200: wire.Image},
    streams=tuple(Archive),
    action="image.upload",
)

MAKE_SCHEDULE = Route(
    handler=schedules.create_schedule,
    scope=WRITE,
    answer=wire.Schedule,
    status=201,
    body=wire.NewSchedule,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CONFLICT", "RATE_LIMITED", "NOT_FOUND"),
    action="schedule.create",
)
LIST_SCHEDULES = Route(
    handler=schedules.list_schedules,
    scope=READ,
    answer=wire.SchedulePage,
    parameters=(LIMIT, CURSOR),
)
GET_SCHEDULE = Route(handler=schedules.get_schedule, scope=READ, answer=wire.Schedule)
UPDATE_SCHEDULE = Route(
    handler=schedules.update_schedule,
    scope=WRITE,
    answer=wire.Schedule,
    body=wire.ScheduleChanges,
    codes=("CONFLICT",),
    action="schedule.update",
)
DELETE_SCHEDULE = Route(
    handler=schedules.delete_schedule, scope=WRITE, status=204, action="schedule.delete"
)
RUN_SCHEDULE = Route(
    handler=schedules.invoke_schedule,
    scope=INVOKE,
    answer=wire.Invocation,
    status=202,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CAPACITY_FULL", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE", "CONFLICT"),
    headers=(INVOCATION_ID, "location"),
    action="schedule.run",
    found=schedules.accepted_run,
)
SCHEDULE_RUNS = Route(
    handler=schedules.list_schedule_runs,
    scope=READ,
    answer=wire.ScheduleRunPage,
    parameters=(LIMIT, CURSOR),
)


def document(handler: Handler, answer: type, unverified: Unverified | None = None) -> Route:
    return Route(
        handler=handler,
        scope=READ,
        answer=answer,
        parameters=(FORMAT,),
        texts=("text/markdown",),
        unverified=unverified,
    )


# Its numbers are of the whole node, so no tenant may read them.
INSTANCES = Route(
    handler=instances.list_instances,
    scope=OPERATOR,
    answer=wire.InstanceList,
    parameters=(LIMIT, FUNCTION_OF_INSTANCES),
)
DOCTOR = Route(handler=system.get_doctor_report, scope=OPERATOR, answer=wire.DoctorReport)
METRICS = Route(handler=system.get_metrics, scope=OPERATOR, answer=str, texts=("text/plain",))
WEB_KINDS = tuple(kind.partition(";")[0] for kind in web.CONTENT_TYPES.values())
DOCUMENTATION_DIRECTORY = Route(handler=web.get_documentation_directory, scope=None, status=302)
DOCUMENTATION = Route(
    handler=web.get_documentation,
    scope=None,
    answer=str,
    texts=WEB_KINDS,
    codes=("NOT_FOUND",),
)
DASHBOARD = Route(
    handler=web.get_dashboard,
    scope=None,
    answer=str,
    texts=("text/html",),
    codes=("NOT_FOUND",),
)
DASHBOARD_FILE = Route(
    handler=web.get_dashboard_file,
    scope=None,
    answer=str,
    texts=WEB_KINDS,
    codes=("NOT_FOUND",),
)
LIVENESS = Route(handler=system.get_liveness, scope=None, answer=wire.Liveness)
READINESS = Route(
    handler=system.get_readiness, scope=None, answer=wire.Liveness, codes=("SHUTTING_DOWN",)
)
HEALTH = document(system.get_health, wire.Health, system.get_health_unverified)

BY_ID = invoking(functions.invoke_function, work.accepted_by_id, functions.called_by_id)
BY_NAME = invoking(
    functions.invoke_function_by_name, work.accepted_by_name, functions.called_by_name
)

# Fixed words come before {function_id}; the first path that fits wins. Invoking comes first of all:
# it is asked for most.
ROUTES: list[tuple[str, dict[str, Route]]] = [
    (CALL_BY_ID, {"POST": BY_ID}),
    (CALL_BY_NAME, {"POST": BY_NAME}),
    ("/fn/{path:path}", {ANY_METHOD: CALL_URL}),
    ("/health", {"GET": LIVENESS}),
    ("/health/ready", {"GET": READINESS}),
    ("/api/functions", {"POST": CREATE, "GET": LIST}),
    ("/api/functions/health", {"GET": HEALTH}),
    ("/api/functions/help", {"GET": document(system.get_help, wire.Help)}),
    (
        "/api/functions/examples",
        {"GET": document(system.list_examples, wire.ExampleList)},
    ),
    ("/api/functions/pool/stats", {"GET": POOL_STATS}),
    ("/api/functions/stats", {"GET": STATS}),
    ("/api/functions/pools", {"GET": POOLS}),
    (
        "/api/functions/by-name/{name}",
        {
            "GET": Route(
                handler=functions.get_function_by_name,
                scope=READ,
                answer=wire.Function,
                codes=GONE,
            )
        },
    ),
    (FUNCTION, {"GET": GET, "PUT": UPDATE, "DELETE": DELETE}),
    (FUNCTION + "/deploy", {"POST": DEPLOY}),
    (FUNCTION + "/pause", {"POST": PAUSE}),
    (FUNCTION + "/resume", {"POST": RESUME}),
    (FUNCTION + "/invocations", {"GET": INVOCATIONS}),
    (FUNCTION + "/invocations/{invocation_id}", {"GET": INVOCATION}),
    (FUNCTION + "/invocations/{invocation_id}/output", {"GET": OUTPUT}),
    (FUNCTION + "/invocations/{invocation_id}/logs", {"GET": LOGS}),
    (FUNCTION + "/logs", {"GET": FUNCTION_LOGS}),
    (FUNCTION + "/invocations/{invocation_id}/timeline", {"GET": TIMELINE}),
    (FUNCTION + "/invocations/{invocation_id}/cancel", {"POST": CANCEL}),
    (FUNCTION + "/invocations/{invocation_id}/attempts", {"GET": ATTEMPTS}),
    (FUNCTION + "/invocations/{invocation_id}/input", {"GET": INPUT}),
    (FUNCTION + "/invocations/{invocation_id}/replay", {"POST": REPLAY}),
    (
        FUNCTION + "/async-policy",
        {"GET": GET_ASYNC_POLICY, "PUT": SET_ASYNC_POLICY, "DELETE": DELETE_ASYNC_POLICY},
    ),
    (FUNCTION + "/aliases", {"GET": ALIASES}),
    (FUNCTION + "/aliases/{alias}", {"GET": GET_ALIAS, "PUT": SET_ALIAS, "DELETE": DELETE_ALIAS}),
    (FUNCTION + "/url", {"GET": GET_URL, "PUT": SET_URL, "DELETE": DELETE_URL}),
    (FUNCTION + "/record-policy", {"GET": GET_RECORD_POLICY, "PUT": SET_RECORD_POLICY}),
    (FUNCTION + "/dead-letters", {"GET": DEAD_LETTERS}),
    (FUNCTION + "/dead-letters/redrive", {"POST": REDRIVE}),
    (FUNCTION + "/dead-letters/{invocation_id}", {"DELETE": DROP}),
    (FUNCTION + "/queue", {"GET": QUEUE}),
    (FUNCTION + "/versions", {"GET": VERSIONS}),
    (FUNCTION + "/versions/{version}/files", {"GET": VERSION_FILES}),
    (FUNCTION + "/versions/{version}/files/{path:path}", {"GET": VERSION_FILE}),
    (FUNCTION + "/rollback", {"POST": ROLLBACK}),
    (FUNCTION + "/pool", {"GET": POOL}),
    (FUNCTION + "/egress", {"GET": EGRESS}),
    (FUNCTION + "/series", {"GET": SERIES}),
    (FUNCTION + "/deliveries", {"GET": DELIVERIES}),
    (FUNCTION + "/deliveries/{delivery_id}/retry", {"POST": RETRY_DELIVERY}),
    ("/api/elasticity" + TARGET, {"POST": TARGETS}),
    ("/api/elasticity/control" + TARGET, {"POST": CONTROLLED}),
    ("/api/elasticity/control/operations/{operation_id}", {"GET": OPERATION}),
    (
        "/api/elasticity/health",
        {"GET": document(system.get_elasticity_health, wire.Health, system.get_health_unverified)},
    ),
    (
        "/api/elasticity/help",
        {"GET": document(system.get_elasticity_help, wire.Help)},
    ),
    (
        "/api/elasticity/examples",
        {"GET": document(system.list_elasticity_examples, wire.ExampleList)},
    ),
    (
        "/api/system/info",
        {"GET": Route(handler=system.get_system_info, scope=READ, answer=wire.SystemInfo)},
    ),
    ("/api/system/doctor", {"GET": DOCTOR}),
    (
        "/api/whoami",
        {"GET": Route(handler=system.get_whoami, scope=READ, answer=wire.Whoami)},
    ),
    ("/api/instances", {"GET": INSTANCES}),
    ("/api/events", {"GET": EVENTS}),
    ("/api/invocations", {"GET": ALL_INVOCATIONS}),
    ("/api/queues", {"GET": QUEUES}),
    ("/api/dead-letters", {"GET": ALL_DEAD_LETTERS}),
    ("/api/deliveries", {"GET": ALL_DELIVERIES}),
    ("/api/runtimes", {"GET": LIST_RUNTIMES, "POST": ADD_RUNTIME}),
    ("/api/runtimes/images", {"POST": UPLOAD_IMAGE}),
    ("/api/runtimes/{name}", {"GET": GET_RUNTIME, "DELETE": REMOVE_RUNTIME}),
    ("/api/runtimes/{name}/files", {"GET": RUNTIME_FILES}),
    ("/api/runtimes/{name}/packages", {"GET": RUNTIME_PACKAGES}),
    ("/api/schedules", {"GET": LIST_SCHEDULES, "POST": MAKE_SCHEDULE}),
    (
        "/api/schedules/{name}",
        {"GET": GET_SCHEDULE, "PUT": UPDATE_SCHEDULE, "DELETE": DELETE_SCHEDULE},
    ),
    ("/api/schedules/{name}/run", {"POST": RUN_SCHEDULE}),
    ("/api/schedules/{name}/runs", {"GET": SCHEDULE_RUNS}),
    ("/api/keys", {"GET": LIST_KEYS, "POST": MAKE_KEY}),
    ("/api/keys/{key_id}", {"DELETE": REVOKE_KEY}),
    ("/api/audit", {"GET": AUDIT}),
    ("/api/usage", {"GET": USAGE}),
    ("/api/tenants", {"GET": LIST_TENANTS}),
    ("/api/tenants/{tenant}/disable", {"POST": DISABLE_TENANT}),
    ("/api/tenants/{tenant}/enable", {"POST": ENABLE_TENANT}),
    (
        "/api/tenants/{tenant}/quota",
        {"GET": QUOTA, "PUT": SET_QUOTA, "DELETE": DELETE_QUOTA},
    ),
    ("/api/nodes", {"GET": LIST_NODES}),
    ("/api/nodes/{name}", {"GET": GET_NODE, "DELETE": REMOVE_NODE}),
    ("/api/nodes/{name}/drain", {"POST": DRAIN_NODE}),
    ("/api/nodes/{name}/cordon", {"POST": CORDON_NODE}),
    ("/api/nodes/{name}/uncordon", {"POST": UNCORDON_NODE}),
    ("/metrics", {"GET": METRICS}),
    ("/openapi.json", {"GET": Route(handler=system.get_openapi_document, scope=None, answer=dict)}),
    ("/docs", {"GET": DOCUMENTATION_DIRECTORY}),
    ("/docs/{path:path}", {"GET": DOCUMENTATION}),
    (
        "/",
        {"GET": Route(handler=web.get_start_page, scope=None, status=302, codes=("NOT_FOUND",))},
    ),
    ("/ui", {"GET": Route(handler=web.get_dashboard_directory, scope=None, status=302)}),
    ("/ui/", {"GET": DASHBOARD}),
    ("/ui/{file}", {"GET": DASHBOARD_FILE}),
]
