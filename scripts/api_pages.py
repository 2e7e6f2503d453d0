"""The pages of the API (docs/api), from the OpenAPI document: each operation with its parameters,
body and responses, and examples for curl and the client library.
"""

import inspect
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from quiltfn import wire
from quiltfn.api import openapi
from quiltfn.api.http.path_pattern import PathPattern
from quiltfn.api.routes.table import ROUTES
from quiltfn.sdk import elasticity, functions, invocations, keys, runtimes, system
from quiltfn.wire.fields import Field, fields_of

GROUPS: dict[str, Any] = {
    "functions": functions.Functions,
    "invocations": invocations.Invocations,
    "elasticity": elasticity.Elasticity,
    "runtimes": runtimes.Runtimes,
    "keys": keys.Keys,
    "system": system.System,
}
USUAL = (*openapi.ALWAYS, *openapi.WITH_CREDENTIAL, *openapi.WITH_BODY)
METHODS = ("get", "post", "put", "delete")
AN_ID = "01a20e60-4498-7000-aca5-20281701ad36"
# Values in snippets for which the API has no example.
ARGUMENTS = {
    "function": "hello",
    "version": 1,
    "path": "main.py",
    "name": "etl",
    "archive": "files.tar",
    "key_id": "3fa9c1d2",
    "etag": '"7"',
    "handler": 'echo "hello, $QUILT_PAYLOAD"',
    "kind": "python",
    "min_instances": 1,
    "max_instances": 4,
    "idempotency_key": "scale-1",
    "action_id": "scale-1",
}
MADE = "<!-- Made by scripts/generate.py, from the routes and their types. -->\n"
FIRST = """\
# API

{made}
Every operation of the HTTP API, from a server's `/openapi.json`. At a server's `/docs/api/` each
has a form that sends it. `GET /api/functions/help?format=markdown` explains rules between them, and
`GET /api/functions/examples` has requests that work as printed.

- Bodies are JSON. Times are Unix seconds, durations milliseconds, memory MiB; one core is 100
  percent.
- A server with keys requires one: `X-Api-Key: $QUILT_API_KEY` or
  `Authorization: Bearer $QUILT_API_KEY`. Scopes are read, invoke, write, admin and operator, each
  including those before it.
- A request is about the tenant of its key. Every operation with a scope takes the query parameter
  `tenant`, with which an operator's key may name another one, to see what it has, and to pause,
  resume, scale and cancel.
- An error is an [ErrorBody](shapes.md#errorbody) with one of
  [these codes](../reference/errors.md). Any request may fail with {usual}.
- Snippets use `QUILT_BASE_URL`, such as `http://127.0.0.1:8080`; `client` is a `Client()` of
  [the Python client](../reference/python-client.md).
"""
SHAPES = """\
# Shapes

{made}
The schemas of requests and responses. Clients must ignore unknown fields: a newer server may send
more.
"""


def pages() -> dict[str, str]:
    """The text of each page, by the page's name."""
    document = openapi.document(ROUTES, {})
    parts: dict[str, list[str]] = {one["name"]: [] for one in document["tags"]}
    rows: dict[str, list[str]] = {name: [] for name in parts}
    for path, method, operation in operations(document):
        tag = operation["tags"][0]
        parts[tag].append(section(document, path, method, operation))
        heading = heading_of(operation)
        link = f"[{heading}]({file_of(tag)}#{anchor(heading)})"
        rows[tag].append(f"| {link} | `{method.upper()} {path}` | {scope_of(operation)} |\n")
    found = {"README.md": FIRST.format(made=MADE, usual=", ".join(f"`{one}`" for one in USUAL))}
    for group in document["tags"]:
        name = group["name"]
        about = group["description"]
        head = f"\n## {name}\n\n{about}\n\n| operation | route | scope |\n|---|---|---|\n"
        found["README.md"] += head + "".join(rows[name])
        found[file_of(name)] = f"# {name}\n\n{MADE}\n{about}\n" + "".join(parts[name])
    shapes = document["components"]["schemas"]
    described = [shape(name, shapes[name]) for name in sorted(shapes)]
    found["shapes.md"] = SHAPES.format(made=MADE) + "".join(described)
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each operation, once: a route for several methods is shown with the first one."""
    seen: set[str] = set()
    for path, item in document["paths"].items():
        for method in METHODS:
            if method not in item or item[method]["summary"] in seen:
                continue
            seen.add(item[method]["summary"])
            shared = [*item.get("parameters", []), *item[method].get("parameters", [])]
            yield path, method, {**item[method], "parameters": shared}


def file_of(tag: str) -> str:
    return f"{tag.lower()}.md"


def heading_of(operation: dict[str, Any]) -> str:
    """The purpose of the operation in a few words."""
    return re.split(r"[:;,] ", operation["summary"])[0]


def anchor(heading: str) -> str:
    """The anchor of a heading, as on code hosts."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def scope_of(operation: dict[str, Any]) -> str:
    found = re.findall(r"Needs scope (\w+)\.", operation["description"])
    return found[0] if found else "none"


def section(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    """One operation."""
    scope = scope_of(operation)
    needs = f", needs scope `{scope}`" if scope != "none" else ""
    heading = heading_of(operation)
    lines = ["", f"## {heading}", "", f"`{method.upper()} {path}`{needs}", ""]
    about = operation["description"].removesuffix(f" Needs scope {scope}.")
    if about.startswith(f"{heading}.") or about == heading:
        about = about.removeprefix(heading).removeprefix(".").strip()
    lines += [prose(about), ""] if about else []
    # Not in the table, since README.md describes this parameter of all operations.
    parameters = [
        one
        for one in operation["parameters"]
        if one["name"] != openapi.TENANT.name or one["required"]
    ]
    if parameters:
        lines += ["| parameter | in | type | meaning |", "|---|---|---|---|"]
        for parameter in parameters:
            needed = " (required)" if parameter["required"] and parameter["in"] != "path" else ""
            about = prose(parameter.get("description", "")) + needed
            where, type_ = parameter["in"], kind(parameter["schema"])
            lines.append(f"| `{parameter['name']}` | {where} | {type_} | {about} |")
        lines.append("")
    schema = body_schema(operation)
    if schema:
        name = schema["$ref"].rpartition("/")[2]
        lines += [f"Its body, a [{name}](shapes.md#{name.lower()}):", ""]
        lines += [table(name, document["components"]["schemas"][name]), ""]
    lines += ["```bash", curl(document, path, method, operation), "```", ""]
    body = example(document["components"]["schemas"], name) if schema else {}
    call = sdk_call(path, method, body)
    if call:
        lines += ["```py", call, "```", ""]
    return "\n".join([*lines, answers(operation)])


def body_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    content = operation.get("requestBody", {}).get("content", {})
    found: dict[str, Any] | None = content.get("application/json", {}).get("schema")
    return found


def answers(operation: dict[str, Any]) -> str:
    """The responses of an operation, and the errors that are specific to it."""
    rows, refusals = ["| answer | body |", "|---|---|"], []
    for status, response in sorted(operation["responses"].items()):
        about = response["description"]
        if about.startswith("error_code: "):
            codes = [code for code in about[12:].split(", ") if code not in USUAL]
            refusals += [f"{status} " + " or ".join(f"`{code}`" for code in codes)] if codes else []
            continue
        content = response.get("content", {})
        kinds = [
            kind(content[name]["schema"]) if name == "application/json" else f"`{name}`"
            for name in content
        ]
        rows.append(f"| {status} | {' or '.join(kinds) or 'none'} |")
    if refusals:
        rows += ["", f"Refused with {', '.join(refusals)}, and [as any request](README.md)."]
    return "\n".join([*rows, ""])


def shape(name: str, schema: dict[str, Any]) -> str:
    about = prose(schema.get("description", ""))
    return f"\n## {name}\n\n{about}\n\n{table(name, schema)}\n"


def table(shape: str, schema: dict[str, Any]) -> str:
    """The fields of a schema. A field without a meaning gets the description of its own schema."""
    declared = fields_of(getattr(wire, shape))
    rows = ["| field | type | | meaning |", "|---|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = json.dumps(field["default"]) if field.get("default") is not None else None
        state = "required" if name in schema.get("required", ()) else ""
        if default not in (None, "{}", "[]", '""'):
            state = f"`{prose(str(default))}`"
        rows.append(f"| `{name}` | {kind(field)} | {state} | {prose(meaning(declared[name]))} |")
    return "\n".join(rows)


def meaning(field: Field) -> str:
    described = inspect.getdoc(field.kind) if field.is_shape else None
    return field.described() or (described or "").split("\n\n")[0]


def kind(schema: dict[str, Any]) -> str:
    """A type in words, with a link if the type is a schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](shapes.md#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[union]))
    if "enum" in schema:
        return " or ".join("null" if one is None else f"`{one}`" for one in schema["enum"])
    name = schema.get("type", "anything")
    if name == "array" and "items" in schema:
        return f"list of {kind(schema['items'])}"
    if name == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind(schema['additionalProperties'])}"
    return " or ".join(name) if isinstance(name, list) else str(name)


def prose(text: str) -> str:
    """Text for a row of a table, without markup except that of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    parts[::2] = [re.sub(r"([<*_\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def curl(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    """A curl command, which works once its variables are set."""
    url = re.sub(r"{(\w+)}", lambda match: f"${match[1].upper()}", path)
    needed = [one for one in operation["parameters"] if one["required"] and one["in"] == "query"]
    if needed:
        url += "?" + "&".join(f"{one['name']}={one.get('example', '')}" for one in needed)
    words = ["curl -s"]
    content = list(operation.get("requestBody", {}).get("content", {}))
    schema = body_schema(operation)
    if method.upper() != ("POST" if content else "GET"):
        words.append(f"-X {method.upper()}")
    lines = [" ".join([*words, f'"$QUILT_BASE_URL{url}"'])]
    if operation.get("security") != []:
        lines.append('-H "X-Api-Key: $QUILT_API_KEY"')
    for parameter in operation["parameters"]:
        if parameter["required"] and parameter["in"] == "header":
            lines.append(
                f"-H {shlex.quote(parameter['name'] + ': ' + str(parameter.get('example', '1')))}"
            )
    if schema:
        name = schema["$ref"].rpartition("/")[2]
        body = json.dumps(example(document["components"]["schemas"], name))
        lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    elif content and content != ["*/*"]:
        lines += [f"-H 'Content-Type: {content[0]}'", "--data-binary @files.tar"]
    return " \\\n  ".join(lines)


def example(shapes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An example body: the required fields, or the first field with an example."""
    fields = shapes[name].get("properties", {})
    wanted = (
        shapes[name].get("required", [])
        or [one for one, field in fields.items() if example_of(shapes, field) is not None][:1]
    )
    return {one: example_of(shapes, fields[one]) for one in wanted}


def example_of(shapes: Mapping[str, Any], schema: dict[str, Any]) -> Any:
    for part in (schema, *schema.get("anyOf", [])):
        if part.get("examples"):
            return part["examples"][0]
        if "$ref" in part:
            return example(shapes, part["$ref"].rpartition("/")[2])
    return None


class FirstRequest(Exception):
    """The first request that a method of the client library would send."""


class Recorder:
    """Replaces a client, and sends nothing."""

    is_async = False

    def run(self, flow: Any) -> Any:
        """Raises `FirstRequest` with the first request."""
        asked = next(flow)
        raise FirstRequest(asked.method, asked.path.partition("?")[0])


@cache
def sdk_calls() -> dict[tuple[str, str], tuple[str, str, inspect.Signature]]:
    """The methods of the client library, by the method and route of their requests."""
    found: dict[tuple[str, str], tuple[str, str, inspect.Signature]] = {}
    patterns = [(route.path.replace(":path}", "}"), PathPattern(route.path)) for route in ROUTES]
    patterns.sort(key=lambda row: row[1].rank)
    for group, methods in GROUPS.items():
        for name in {name: 0 for one in methods.__mro__[:-1] for name in vars(one)}:
            if name.startswith("_"):
                continue
            call = getattr(methods(Recorder()), name)
            signature = inspect.signature(call)
            method, path = asked_by(call, signature)
            segments = path.split("/")
            for route, pattern in patterns:
                if pattern.parameters_of(segments) is not None:
                    found.setdefault((method, route), (group, name, signature))
                    break
    return found


def arguments(signature: inspect.Signature, **instead: Any) -> dict[str, Any]:
    """An example value for each required parameter."""
    return {
        name: instead.get(name, ARGUMENTS.get(name, AN_ID))
        for name, one in signature.parameters.items()
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }


def asked_by(call: Any, signature: inspect.Signature) -> tuple[str, str]:
    """The first request of a method; a function is given by its id."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        given = arguments(signature, function=AN_ID, archive=archive.name)
        named = {
            one: given.pop(one)
            for one in list(given)
            if signature.parameters[one].kind is inspect.Parameter.KEYWORD_ONLY
        }
        try:
            next(iter(call(*given.values(), **named)))
        except FirstRequest as asked:
            return str(asked.args[0]), str(asked.args[1])
    raise AssertionError("it sent nothing")


def sdk_call(path: str, method: str, body: dict[str, Any]) -> str | None:
    """The call of a client method as users write it, with the fields of the body."""
    known = sdk_calls().get((method.upper(), path))
    if known is None:
        return None
    group, name, signature = known
    given = arguments(signature)
    is_open = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    given |= {one: value for one, value in body.items() if is_open or one in signature.parameters}
    words = []
    for argument, value in given.items():
        parameter = signature.parameters.get(argument)
        is_first = parameter is not None and parameter.kind is not parameter.KEYWORD_ONLY
        words.append(written(value) if is_first else f"{argument}={written(value)}")
    return f"client.{group}.{name}({', '.join(words)})"


def written(value: Any) -> str:
    """A value in this project's notation of strings."""
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')
