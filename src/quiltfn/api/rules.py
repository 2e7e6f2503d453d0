"""The rules of each request field, said once for people and once as JSON Schema.

The numbers are the model's; the schema is what the OpenAPI document promises, and a test holds the
two together: what the schema allows is accepted, what it forbids is refused.
"""

from collections.abc import Mapping
from typing import Any

from quiltfn.access import EXPIRES_MAX_S
from quiltfn.model.access import TENANT, Scope
from quiltfn.model.function import CLUSTER_ID_MAX, DESCRIPTION_MAX, INSTANCES_MAX, RESERVED_NAMES
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES
from quiltfn.model.runtime import IMAGE, WRITABLE_MAX, Isolation, Kind, Network
from quiltfn.model.runtime import NAME as RUNTIME_NAME
from quiltfn.model.runtime import RESERVED_NAMES as RUNTIME_RESERVED_NAMES
from quiltfn.model.version import (
    ENVIRONMENT_MAX_BYTES,
    HANDLER_MAX_BYTES,
    MASK,
    MEMORY_MIN_MIB,
    NUMBER_MAX,
    PATH_MAX,
    RESERVED_PREFIX,
)

NO_NUL = "^[^\\u0000]*$"
PART = "(?!\\.{1,2}(?:/|$))[^/\\u0000]+"  # of a path: neither empty nor . or ..
# The three numbers that machine and settings decide are filled in by `with_host`.
RULES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "name": (
        "1 to 64 letters, digits, dots, dashes, underscores; a letter or digit first and last; "
        "none of the API's own words; unique in the tenant",
        {
            "pattern": "^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$",
            "not": {"enum": sorted(RESERVED_NAMES)},
        },
    ),
    "handler": (
        f"what the runtime runs: 1 to {HANDLER_MAX_BYTES} bytes without NUL",
        {"minLength": 1, "maxLength": HANDLER_MAX_BYTES, "pattern": NO_NUL},
    ),
    "runtime": (
        "the name of a runtime of this server: GET /api/runtimes lists them",
        {"pattern": f"^{RUNTIME_NAME.pattern}$"},
    ),
    "cluster_id": (
        f"a label of at most {CLUSTER_ID_MAX} characters, or null; cannot be changed",
        {"maxLength": CLUSTER_ID_MAX},
    ),
    "description": (
        f"at most {DESCRIPTION_MAX} characters, or null",
        {"maxLength": DESCRIPTION_MAX},
    ),
    "memory_limit_mb": (
        f"MiB, a whole number from {MEMORY_MIN_MIB} to what the host allows",
        {"minimum": MEMORY_MIN_MIB},
    ),
    "cpu_limit_percent": ("percent of one core, from 1 to 100 for each core", {"minimum": 1}),
    "timeout_seconds": (
        "seconds, a whole number from 1 to what the server allows (limits in /api/system/info); of "
        "a call: at most the function's",
        {"minimum": 1},
    ),
    "environment": (
        "strings by name; names of letters, digits and _, not a digit first, none beginning with "
        f"{RESERVED_PREFIX}; {ENVIRONMENT_MAX_BYTES} bytes in all",
        {
            "propertyNames": {"pattern": f"^(?!{RESERVED_PREFIX})[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {
                "type": "string",
                "pattern": NO_NUL,
                "not": {"const": MASK},
            },
            "maxProperties": 1000,
        },
    ),
    "min_instances": (
        "instances that are always kept: a whole number from 0 to max_instances",
        {"minimum": 0, "maximum": INSTANCES_MAX},
    ),
    "max_instances": (
        f"live instances at most: a whole number from 1 to {INSTANCES_MAX}",
        {"minimum": 1, "maximum": INSTANCES_MAX},
    ),
    "cleanup_on_exit": ("true: /tmp is emptied after each call; false: it is kept", {}),
    "working_directory": (
        f"an absolute, normal path of at most {PATH_MAX} bytes outside /proc, /sys, /dev, or null",
        {
            "maxLength": PATH_MAX,
            "pattern": f"^/(?!(?:proc|sys|dev)(?:/|$))(?:{PART}(?:/{PART})*)?$",
        },
    ),
    "payload": (
        f"a string of at most {PAYLOAD_MAX_BYTES} bytes, or null: the handler's standard input",
        {"maxLength": PAYLOAD_MAX_BYTES},
    ),
    "version": ("the number of an existing version", {"minimum": 1, "maximum": NUMBER_MAX}),
    "tenant": ("the tenant the key is for; default: your own", {"pattern": f"^{TENANT.pattern}$"}),
    "scope": (f"one of {', '.join(Scope)}; default: write", {"enum": list(Scope)}),
    "expires_seconds": (
        "seconds until the key ends, or null for never",
        {"minimum": 1, "maximum": EXPIRES_MAX_S},
    ),
}
# Of fields that have the name of another one of a function.
RULES |= {
    "AddRuntimeBody.name": (
        "1 to 64 small letters, digits, dots, dashes, underscores; a letter or digit first and "
        "last; none of the API's own words and none of the server's own runtimes",
        {
            "pattern": f"^{RUNTIME_NAME.pattern}$",
            "not": {"enum": sorted(RUNTIME_RESERVED_NAMES)},
        },
    ),
    "InvokeBody.environment": (
        "for this call only, laid over the function's: strings by name, as the function's own. A "
        "key below scope write sets only what the function declares with an empty value, and none "
        "that programs run code by (BASH_ENV, LD_PRELOAD, NODE_OPTIONS, PATH, …)",
        RULES["environment"][1],
    ),
    "kind": (f"how a handler is run: one of {', '.join(Kind)}", {"enum": list(Kind)}),
    "image": (
        "the digest of an image that was uploaded, or null for the host's own files alone",
        {"pattern": f"^{IMAGE.pattern}$"},
    ),
    "command": (
        "the absolute path of a program and its arguments; of a custom runtime only",
        {"items": {"type": "string", "pattern": NO_NUL}},
    ),
    "isolation": (
        "crun, or gvisor: a kernel of its own between handler and machine, where there is runsc",
        {"enum": list(Isolation)},
    ),
    "network": (
        "none, or egress: public addresses, and nothing of the host or of private networks",
        {"enum": list(Network)},
    ),
    "shared": (
        "true: for all tenants, not the caller's alone; needs an operator's key",
        {},
    ),
    "writable_paths": (
        f"at most {WRITABLE_MAX} absolute paths, beside /tmp, where a handler may write",
        {"maxItems": WRITABLE_MAX, "uniqueItems": True},
    ),
}


def rule_name(body: str, field: str) -> str:
    """The key of the rule of a body's field."""
    own = f"{body}.{field}"
    return own if own in RULES else field


def rule_text(body: str, field: str) -> str:
    """The rule of a field, for people."""
    return RULES[rule_name(body, field)][0]


def with_host(memory_max_mib: int, cores: int, timeout_max_s: int) -> dict[str, dict[str, Any]]:
    """Each field's JSON Schema keywords, this server's own limits filled in."""
    schemas = {name: dict(keywords) for name, (_, keywords) in RULES.items()}
    schemas["memory_limit_mb"]["maximum"] = memory_max_mib
    schemas["cpu_limit_percent"]["maximum"] = 100 * cores
    schemas["timeout_seconds"]["maximum"] = timeout_max_s
    return schemas
