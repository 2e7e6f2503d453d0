"""Help and examples for the API, as JSON and as Markdown, generated from the route table."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from quiltfn.api.http.response import encode
from quiltfn.api.http.route import ANY_METHOD, AnyRoute
from quiltfn.api.openapi import document
from quiltfn.wire import NewFunction, NewInvocation
from quiltfn.wire.fields import fields_of

DEBUGGING = [
    "GET /api/functions/<id>: is it active? If not, `error_message` says why, and deploying, "
    "resuming or updating it is the next step.",
    "GET /api/functions/<id>/pool: are instances ready or busy? Zeros on an active function mean "
    "that the next call is a cold start, not that something is broken.",
    "GET /api/functions/<id>/invocations?limit=5: read status, exit_code and stderr of the last "
    "calls.",
    "GET /api/invocations?status=failed&from=<unix>: the calls of all functions that failed since "
    "then, without their output.",
    "GET /api/functions/<id>/invocations/<invocation_id>/timeline: where the time of a slow call "
    "went, and why it was cold.",
    "GET /api/functions/<id>/invocations/<invocation_id>/output?stream=stderr: all that is kept of "
    "a call's output, byte for byte; x-output-truncated counts what was dropped.",
    "GET /api/functions/<id>/invocations/<invocation_id>/logs: both streams of a call in the order "
    "in which they came; ?follow=true goes on while it runs. POST …/invoke with Accept: "
    "text/event-stream shows a call from its start.",
    "status failed: the handler's exit code was not 0; stderr has its messages.",
    "status timeout: the handler ran longer than timeout_seconds; give it more or do less.",
    "status oom: the handler needed more than memory_limit_mb.",
    "status error or interrupted: the call was ended by the platform and not by the handler; "
    "error_message says why.",
    "503 with CAPACITY_FULL: every instance is busy; wait for Retry-After or raise max_instances.",
    "GET /api/functions/<id>/queue: does asynchronous work wait, how long, and was any given up? "
    "GET …/dead-letters says why, and GET …/invocations/<invocation_id>/attempts what was tried.",
    "GET /api/functions/health: can the server do its work, and which protections are in force?",
]
MISTAKES = [
    "cold_start is metadata, not a failure: it says that the call waited for an instance to start.",
    "An update makes a new version; no version ever changes, and a rollback makes none.",
    "Existence, deployment and warm capacity are three things: a function can exist and not be "
    "deployed (pending), and be deployed without a ready instance.",
    "A handler that fails is an answer with HTTP 200: look at status and exit_code.",
    "stdout is what the handler wrote and nothing else; as text it has U+FFFD for bytes that are "
    "not UTF-8. A value that python or node returns and that is too large fails the call.",
    "A 202 is kept, not done: its record has status queued until it runs. By default it is tried "
    "once; async-policy says more. A handler that is tried again must be safe to repeat: "
    "QUILT_INVOCATION_ID is the same in every attempt.",
    "timeout_seconds of a call may be shorter than the function's, never longer.",
    "There is no source code in the API: the handler is what the runtime runs, a command line for "
    "shell; its files come with the runtime.",
    "Only /tmp and /dev/shm are writable; both are emptied after each call, unless the function "
    "says otherwise.",
    "A key of scope invoke sets only those variables of a call that the function declares with an "
    "empty value, none that programs run code by (BASH_ENV, LD_PRELOAD, PATH, …): 403 names it.",
    'Numbers are JSON numbers: "256" and true are refused, and so is every unknown field.',
]
CREATE_BODY = {name: field.example for name, field in fields_of(NewFunction).items()}
INVOKE_BODY = {name: field.example for name, field in fields_of(NewInvocation).items()}
UPDATE_BODY = {"handler": 'echo "$QUILT_PAYLOAD $EXTRA_VAR"'}
TARGET_BODY = {"min_instances": 1, "max_instances": 4}
ID = "/api/functions/$FUNCTION_ID"


def example(title: str, method: str, path: str, status: int, **more: Any) -> dict[str, Any]:
    """One request. `more["keeps"]`: shell variables to set, with fields of the response."""
    return {"title": title, "method": method, "path": path, "expect_status": status, **more}


CREATE = example(
    "Create a function",
    "POST",
    "/api/functions",
    201,
    body=CREATE_BODY,
    keeps={"FUNCTION_ID": "function_id"},
)
DEPLOY = example("Deploy it", "POST", f"{ID}/deploy", 200)
DELETE = example("Delete it", "DELETE", ID, 204)
FUNCTION_EXAMPLES = [
    CREATE,
    DEPLOY,
    example("Invoke it", "POST", f"{ID}/invoke", 200, body=INVOKE_BODY),
    example(
        "Invoke it by name",
        "POST",
        "/api/functions/invoke/my-function",
        200,
        body=INVOKE_BODY,
        keeps={"INVOCATION_ID": "invocation_id"},
    ),
    example("See where its time went", "GET", f"{ID}/invocations/$INVOCATION_ID/timeline", 200),
    example(
        "Read its output, byte for byte", "GET", f"{ID}/invocations/$INVOCATION_ID/output", 200
    ),
    example(
        "Read what it wrote, both streams", "GET", f"{ID}/invocations/$INVOCATION_ID/logs", 200
    ),
    example(
        "Queue a call",
        "POST",
        f"{ID}/invoke",
        202,
        headers={"Prefer": "respond-async"},
        body=INVOKE_BODY,
        keeps={"QUEUED_ID": "invocation_id"},
    ),
    example("Wait for its end", "GET", f"{ID}/invocations/$QUEUED_ID?wait_seconds=30", 200),
    example("See each attempt at it", "GET", f"{ID}/invocations/$QUEUED_ID/attempts", 200),
    example("Show it", "GET", ID, 200),
    example("Show it by name", "GET", "/api/functions/by-name/my-function", 200),
    example("List functions", "GET", "/api/functions?limit=10", 200),
    example("Update it: a new version", "PUT", ID, 200, body=UPDATE_BODY),
    example("List its versions", "GET", f"{ID}/versions", 200),
    example("Roll back to version 1", "POST", f"{ID}/rollback", 200, body={"version": 1}),
    example("Count its instances", "GET", f"{ID}/pool", 200),
    example("Count all instances", "GET", "/api/functions/pool/stats", 200),
    example("List its calls", "GET", f"{ID}/invocations?limit=5", 200),
    example("List runtimes", "GET", "/api/runtimes", 200),
    example("Show a runtime", "GET", "/api/runtimes/shell", 200),
    example("Pause it", "POST", f"{ID}/pause", 200),
    example("Resume it", "POST", f"{ID}/resume", 200),
    DELETE,
]
TENANT = {"X-Tenant-Id": "default"}
CONTROL = {**TENANT, "Idempotency-Key": "scale-2041", "X-Orch-Action-Id": "action-17"}
CONTROL_PATH = "/api/elasticity/control/functions/$FUNCTION_ID/pool-target"
ELASTICITY_EXAMPLES = [
    CREATE,
    DEPLOY,
    example(
        "Keep one instance ready, allow four",
        "POST",
        "/api/elasticity/functions/$FUNCTION_ID/pool-target",
        200,
        headers=TENANT,
        body=TARGET_BODY,
    ),
    example(
        "The same as an operation that happens once",
        "POST",
        CONTROL_PATH,
        200,
        headers=CONTROL,
        body=TARGET_BODY,
        keeps={"OPERATION_ID": "operation_id"},
    ),
    example("A replay of it", "POST", CONTROL_PATH, 409, headers=CONTROL, body=TARGET_BODY),
    example("Show the operation", "GET", "/api/elasticity/control/operations/$OPERATION_ID", 200),
    DELETE,
]


ELASTICITY = "/api/elasticity"


class Texts(NamedTuple):
    """A document as JSON and as Markdown."""

    json: bytes
    markdown: bytes

    @classmethod
    def of(cls, document: Any, markdown: Callable[[Any], str]) -> "Texts":
        return cls(encode(document), markdown(document).encode())


class HelpDocuments:
    """Documents about the routes. `limits`: this server's limits, by field name."""

    def __init__(self, routes: Sequence[AnyRoute], limits: Mapping[str, float]) -> None:
        self._routes, self.limits = routes, limits
        words = [route.path.split("/")[2] for route in routes if route.path.startswith("/api/")]
        self.parts = sorted(set(words))  # groups of routes, by the first segment after /api/

    # Generated on the first request, since few servers need them (OpenAPI takes 30 ms), and cached:
    # clients share one copy, so many slow readers need no more memory.

    @cached_property
    def functions_help(self) -> Texts:
        """Help on all routes except those for pool targets."""
        others = [route for route in self._routes if not route.path.startswith(ELASTICITY)]
        return Texts.of(help_document("The functions API", others), help_text)

    @cached_property
    def elasticity_help(self) -> Texts:
        """Help on the routes for pool targets."""
        elastic = [route for route in self._routes if route.path.startswith(ELASTICITY)]
        return Texts.of(help_document("Pool targets", elastic), help_text)

    @cached_property
    def functions_examples(self) -> Texts:
        """Requests to the functions API."""
        return Texts.of({"examples": FUNCTION_EXAMPLES}, examples_text)

    @cached_property
    def elasticity_examples(self) -> Texts:
        """Requests that set pool targets."""
        return Texts.of({"examples": ELASTICITY_EXAMPLES}, examples_text)

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document."""
        return encode(document(self._routes, self.limits))


def help_document(title: str, routes: Sequence[AnyRoute]) -> dict[str, Any]:
    """Every route with its rules, the debugging flow, the common mistakes."""
    return {
        "title": title,
        "routes": [describe(route) for route in routes],
        "debugging": DEBUGGING,
        "common_mistakes": MISTAKES,
    }


def describe(route: AnyRoute) -> dict[str, Any]:
    """One route: purpose, required scope, input and possible errors."""
    fields = {}
    if route.body is not None:
        for name, field in fields_of(route.body).items():
            may_be = "; may be null" if field.is_nullable and not field.null else ""
            fields[name] = {
                "rule": field.described() + may_be,
                "required": field.is_required,
                "example": field.example,
            }
    if route.streams:
        fields["the body"] = {"rule": " or ".join(route.streams), "required": True, "example": None}
    return {
        "method": "ANY" if route.method == ANY_METHOD else route.method,
        "path": route.path.replace(":path}", "}"),
        "about": route.about,
        "scope": route.scope,
        "parameters": {one.name: one.about for one in route.parameters},
        "fields": fields,
        "refusals": list(route.codes),
    }


def help_text(document: dict[str, Any]) -> str:
    """The help as Markdown."""
    lines = [f"# {document['title']}", ""]
    for route in document["routes"]:
        who = f"Needs scope `{route['scope']}`." if route["scope"] else "Needs no credential."
        lines += [f"## {route['method']} {route['path']}", "", f"{route['about']} {who}", ""]
        lines += [f"- `{name}`: {about}" for name, about in route["parameters"].items()]
        for name, rule in route["fields"].items():
            needed = ", required" if rule["required"] else ""
            lines.append(f"- `{name}`{needed}: {rule['rule']}")
        if route["refusals"]:
            lines.append(f"- can be refused with: {', '.join(route['refusals'])}")
        lines.append("")
    for title, points in (("Debugging", "debugging"), ("Common mistakes", "common_mistakes")):
        lines += [f"## {title}", "", *(f"- {point}" for point in document[points]), ""]
    return "\n".join(lines)


def examples_text(document: dict[str, Any]) -> str:
    """The examples as Markdown: its code blocks in sequence are a shell script."""
    lines = ["# Examples", "", "```sh", 'QUILT_BASE_URL="${QUILT_BASE_URL:-http://127.0.0.1:8080}"']
    lines += ['QUILT_API_KEY="${QUILT_API_KEY:-}"', "```", ""]
    for example in document["examples"]:
        lines += [f"## {example['title']}", "", f"Answers {example['expect_status']}.", "", "```sh"]
        lines += [curl(example), "```", ""]
    return "\n".join(lines)


def curl(example: dict[str, Any]) -> str:
    """The request as a command line."""
    parts = ["curl -sS", f"-X {example['method']}", f'"$QUILT_BASE_URL{example["path"]}"']
    parts.append('${QUILT_API_KEY:+-H "X-Api-Key: $QUILT_API_KEY"}')
    parts += [f"-H '{name}: {value}'" for name, value in example.get("headers", {}).items()]
    if "body" in example:
        text = json.dumps(example["body"]).replace("'", "'\\''")
        parts += ["-H 'Content-Type: application/json'", f"-d '{text}'"]
    command = " ".join(parts)
    for variable, name in example.get("keeps", {}).items():
        read = f'sed -n \'s/.*"{name}":"\\([^"]*\\)".*/\\1/p\''
        command = f'{variable}=$({command} | {read}); echo "${variable}"'
    return command


def health_text(report: dict[str, Any]) -> str:
    """Health as Markdown."""
    lines = [f"# {'Ready' if report['ready'] else 'Not ready'}", ""]
    for name, part in report["checks"].items():
        lines.append(f"- {name}: {'ok' if part['ok'] else 'NOT OK'}, {part['reason']}")
    lines += ["", "## Protections in force", ""]
    lines += [f"- {name}: {how}" for name, how in report["protections"].items()]
    return "\n".join([*lines, ""])
