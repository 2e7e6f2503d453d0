"""Generates the OpenAPI 3.1 document from the routes and the types that they use."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from quiltfn import __version__, wire
from quiltfn.api.http import errors
from quiltfn.api.http.event_stream import EVENT_STREAM
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID
from quiltfn.api.http.route import ANY_METHOD, AnyRoute, Parameter, by_path
from quiltfn.wire.fields import fields_of

REF = "#/components/schemas/{name}"
# Errors of every route. STORE_UNAVAILABLE also stands for SHUTTING_DOWN, which has the same status.
ALWAYS = ("FORBIDDEN", "INTERNAL", "BAD_REQUEST", "STORE_UNAVAILABLE")
WITH_CREDENTIAL = ("UNAUTHORIZED", "RATE_LIMITED")
WITH_TENANT = ("UNPROCESSABLE_ENTITY", "NOT_FOUND")  # for the parameter `tenant`
WITH_BODY = ("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "UNPROCESSABLE_ENTITY")
HEADERS = {
    "x-request-id": {
        "description": "The request's id: yours where it was well-formed, else a new one.",
        "schema": {"type": "string"},
    }
}

EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["event", "data"],
}
OWN_HEADERS = {
    "location": {
        "description": "Where the record of the queued call is.",
        "schema": {"type": "string"},
    },
    "preference-applied": {
        "description": "respond-async: the call is queued.",
        "schema": {"type": "string"},
    },
    INVOCATION_ID: {
        "description": "The id of the call's record.",
        "schema": {"type": "string"},
    },
    FUNCTION_VERSION: {
        "description": "The number of the version that the call ran on.",
        "schema": {"type": "string"},
    },
    "x-function-url": {
        "description": "The path of the function's URL; there is none before one is set.",
        "schema": {"type": "string"},
    },
    "server-timing": {
        "description": "Where the time went: dur is milliseconds; as in the call's timeline.",
        "schema": {"type": "string"},
    },
    "x-output-truncated": {
        "description": "Bytes dropped from each stream: stdout=1951424, stderr=12.",
        "schema": {"type": "string"},
    },
    "accept-ranges": {
        "description": "bytes: Range requests are supported.",
        "schema": {"type": "string"},
    },
    "content-range": {
        "description": "For a partial response: its bytes, and the total size.",
        "schema": {"type": "string"},
    },
}

# Descriptions of path parameters. For {name}, the path segment before it tells what it names.
IN_PATH = {
    "function_id": "the function's id, and not its name",
    "invocation_id": "the invocation's id",
    "delivery_id": "the delivery's id",
    "operation_id": "the operation's id",
    "key_id": "the key's id",
    "alias": "the alias's name",
    "version": "the version's number",
    "tenant": "the tenant's name",
    "path": "a path, which may have slashes",
    "file": "the file's name",
}
NAMED = {"runtimes": "runtime", "schedules": "schedule", "nodes": "node"}

# The groups of operations in display order. The last segment of a path that a group lists decides
# the path's group.
TAGS = {
    "Functions": ("Create, deploy, change, pause and delete functions.", {"functions"}),
    "Calls": (
        "Invoke functions, and read records and output of invocations.",
        {"invoke", "invocations", "logs"},
    ),
    "Queues": (
        "Asynchronous invocations: policies, queues, dead letters, deliveries.",
        {"async-policy", "record-policy", "dead-letters", "queue", "deliveries"},
    ),
    "Versions": ("A function's versions and their files.", {"versions", "rollback"}),
    "URLs": ("Invoke functions over plain HTTP.", {"url", "fn"}),
    "Schedules": ("Run functions on schedules.", {"schedules"}),
    "Runtimes": ("The files and packages of functions.", {"runtimes"}),
    "Pools": (
        "Instances of functions, and their scaling.",
        {"pool", "pools", "pool-target", "operations", "instances", "egress"},
    ),
    "Usage": (
        "Statistics, usage, and tenants with their quotas.",
        {"stats", "series", "usage", "quota", "tenants", "disable", "enable"},
    ),
    "Keys": ("API keys, the caller's credential, and the audit log.", {"keys", "whoami", "audit"}),
    "Fleet": ("The nodes of a fleet.", {"nodes"}),
    "Server": ("Health, metrics, events, and documents of this server.", set[str]()),
}

VISIBLE = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x21-\x7e]+$"}
# Query parameter of every route that needs a scope.
TENANT = Parameter(
    name="tenant",
    where="query",
    about="the tenant that the request is about; only an operator's key may name another one than "
    "its own (default: the tenant of the key)",
    schema=VISIBLE,
)

# A route for all methods is described under these methods.
COMMON_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")
ACCEPTED = 202
ACCEPTED_HEADERS = {
    name: OWN_HEADERS[name] for name in ("location", "preference-applied", INVOCATION_ID)
}
# Descriptions of additional success statuses; the default is "Done before."
ALSO = {ACCEPTED: "Queued: its record has the outcome.", 206: "A part of the content."}


def document(routes: Sequence[AnyRoute], limits: Mapping[str, float]) -> dict[str, Any]:
    """The whole document. `limits`: this server's limits, by field name."""
    types: list[Any] = [wire.ErrorBody]
    for route in routes:
        shapes = (route.body, *_shapes(route.answer), *route.also.values())
        types += [one for one in shapes if hasattr(one, "__struct_fields__")]
    _, components = msgspec.json.schema_components(types, ref_template=REF)
    for body in {route.body for route in routes if route.body is not None}:
        _constrain(components, body, limits)
    for changes in (wire.FunctionChanges, wire.ScheduleChanges):
        components[changes.__name__]["minProperties"] = 1
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quiltfn",
            "version": __version__,
            "description": "Serverless functions on your own machine. Times are Unix seconds, "
            "durations milliseconds, memory MiB; one processor core is 100 percent.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, (about, _) in TAGS.items()],
        "security": [{"key": []}, {"bearer": []}, {}],
        "paths": {
            path.replace(":path}", "}"): _path(path, ways) for path, ways in by_path(routes).items()
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _constrain(components: dict[str, Any], body: type, limits: Mapping[str, float]) -> None:
    """Add the constraints of a request body's fields, and the meaning of null, to its schema.
    Responses have no constraints: a newer server may allow more.
    """
    for name, field in fields_of(body).items():
        schema = components[body.__name__]["properties"][name]
        # If a field may be null, the constraints apply to its type other than null.
        parts = sorted(schema.get("anyOf", [schema]), key=lambda part: part.get("type") == "null")
        parts[0]["description"] = field.meaning
        if field.null:
            parts[-1]["description"] = field.null
        if field.is_shape:
            _constrain(components, field.kind, limits)
        for constraint in field.constraints:
            parts[0].update(constraint.schema(limits.get(name)))


def tag_of(path: str) -> str:
    """The group of a path."""
    words = path.split("/")
    if words[-1] in ("health", "help", "examples"):
        return "Server"
    for word in reversed(words):
        for name, (_, known) in TAGS.items():
            if word in known:
                return name
    return "Server"


def _in_path(path: str, name: str) -> str:
    if name != "name":
        return IN_PATH[name]
    group = path.partition("/{name}")[0].rpartition("/")[2]
    return f"the {NAMED.get(group, 'function')}'s name"


def _path(path: str, ways: Mapping[str, AnyRoute]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    names = re.findall(r"{(\w+)(?::path)?}", path)
    if names:
        item["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": _in_path(path, name),
                "schema": {"type": "string"},
            }
            for name in names
        ]
    tag = tag_of(path)
    for method, way in ways.items():
        if method != ANY_METHOD:
            item[method.lower()] = _operation(way, tag, has_path_parameters=bool(names))
            continue
        for each in COMMON_METHODS:
            operation = _operation(way, tag, has_path_parameters=bool(names))
            operation["operationId"] += each.capitalize()
            item[each.lower()] = operation
    return item


def _operation(way: AnyRoute, tag: str, *, has_path_parameters: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": operation_id(way),
        "tags": [tag],
        "summary": way.about.split(". ")[0].rstrip("."),
        "description": way.about + (f" Needs scope {way.scope}." if way.scope else ""),
        "responses": _responses(way, has_path_parameters=has_path_parameters),
    }
    if way.scope is None and way.admit is None:
        operation["security"] = []
    parameters = list(way.parameters)
    if way.scope is not None:
        parameters.append(TENANT)
    if parameters:
        operation["parameters"] = [_parameter(one) for one in parameters]
    if way.body is not None:
        operation["requestBody"] = {
            "required": way.needs_body,
            "content": {"application/json": {"schema": _reference(way.body)}},
        }
    if way.admit is not None:
        operation["requestBody"] = {"required": False, "content": {"*/*": {}}}
    if way.streams:  # raw bytes have no schema (OpenAPI 3.1, 4.8.14.1)
        operation["requestBody"] = {
            "required": True,
            "content": {kind: {} for kind in way.streams},
        }
    return operation


def operation_id(way: AnyRoute) -> str:
    """The handler's name in camelCase: a verb and its object."""
    verb, *nouns = way.handler.__name__.split("_")
    return verb + "".join(noun.capitalize() for noun in nouns)


def _parameter(asked: Parameter) -> dict[str, Any]:
    parameter: dict[str, Any] = {
        "name": asked.name,
        "in": asked.where,
        "required": asked.required,
        "description": asked.about,
        "schema": dict(asked.schema),
    }
    if asked.example is not None:
        parameter["example"] = asked.example
    return parameter


def _responses(way: AnyRoute, *, has_path_parameters: bool) -> dict[str, Any]:
    headers = HEADERS | {name: OWN_HEADERS[name] for name in way.headers}
    good: dict[str, Any] = {"description": "Done.", "headers": headers}
    content: dict[str, Any] = {kind: _text(kind) for kind in way.texts}
    if way.answer is not None and way.answer is not str:
        content["application/json"] = {"schema": _reference(way.answer)}
    if content:
        good["content"] = content
    responses = {str(way.status): good}
    codes = [*ALWAYS, *way.codes]
    if way.scope is not None:
        codes += (*WITH_CREDENTIAL, *WITH_TENANT)
    if way.body is not None or way.streams:
        codes += WITH_BODY
    elif way.parameters:
        codes.append("UNPROCESSABLE_ENTITY")
    if has_path_parameters:
        codes.append("NOT_FOUND")
    by_status: dict[int, set[str]] = {}
    for code in codes:
        by_status.setdefault(errors.STATUS[code], set()).add(code)
    for status, some in sorted(by_status.items()):
        responses[str(status)] = {
            "description": "error_code: " + ", ".join(sorted(some)),
            "headers": HEADERS,
            "content": {"application/json": {"schema": {"$ref": REF.format(name="ErrorBody")}}},
        }
    for status, kind in way.also.items():
        json = {"application/json": {"schema": _reference(kind)}} if kind is not bytes else None
        more = ACCEPTED_HEADERS if status == ACCEPTED else {}
        responses[str(status)] = {
            "description": ALSO.get(status, "Done before."),
            "headers": HEADERS | more if json else headers,
            "content": json or content,
        }
    return responses


def _text(kind: str) -> dict[str, Any]:
    """The media type object of a response that is not JSON. Bytes have no schema (OpenAPI 3.1,
    4.8.14.1). The schema of a stream describes each event, as tools for 3.1 expect.
    """
    if kind == EVENT_STREAM:
        return {"schema": EVENT}
    return {"schema": {"type": "string"}} if kind.startswith("text/") else {}


def _shapes(answer: Any) -> tuple[Any, ...]:
    """The possible schemas of a response."""
    return get_args(answer) or (answer,)


def _reference(kind: Any) -> dict[str, Any]:
    if kind is dict:
        return {"type": "object"}
    if len(_shapes(kind)) > 1:
        return {"anyOf": [_reference(one) for one in _shapes(kind)]}
    return {"$ref": REF.format(name=kind.__name__)}
