"""Writes the files that follow from the code: the settings' reference page and sample, the list of
the Python client's methods, the pages of the states, of the security tests, of what runs as root,
of the project file, of the command line (and its manual page) and of the API and
of promises, the packages in the page of the architecture, the types of the dashboard.

.venv/bin/python scripts/generate.py
"""

import ast
import inspect
import json
import math
import re
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import api_pages
import cli_pages
import promise_pages
from quiltfn import Client, settings, wire
from quiltfn.api import openapi
from quiltfn.api.routes.table import ROUTES
from quiltfn.cli.project import file as project_file
from quiltfn.cli.project.toml import value
from quiltfn.model import function, instance, invocation
from quiltfn.sdk import groups
from quiltfn.sdk.methods import Listing
from quiltfn.wire import invocations, keys, masking
from quiltfn.wire.fields import Field, fields_of, is_shape

ROOT = Path(__file__).resolve().parents[1]
# What a service needs to be different from a server that is started in a directory by hand.
SERVICE = {"data_dir": "/var/lib/quiltfn/data"}
HEAD = """\
# Settings of `quiltfn serve --config /etc/quiltfn/quiltfn.toml`.
# Lines that are commented out show the defaults. The command line and the environment
# (QUILTFN_IDLE_S=60) have more weight than this file. Made by scripts/generate.py.
"""


def sample() -> str:
    """packaging/quiltfn.toml."""
    parts = [HEAD]
    for field in settings.SETTINGS:
        about, low, high = field.about, field.low, field.high
        span = "" if low is None else f" ({low:.15g} to {high:.15g})"
        line = f"{field.name} = {toml(field.default)}"
        if field.name in SERVICE:
            line = f"{field.name} = {toml(SERVICE[field.name])}"
        else:
            line = f"# {line}"
        parts.append(f"# {about}{span}\n{line}\n")
    return "\n".join(parts)


def toml(value: Any) -> str:
    if value == Path():
        return '""'
    return json.dumps(str(value)) if isinstance(value, str | Path) else str(value)


def settings_page() -> str:
    """docs/reference/settings.md."""
    lines = [
        "# Settings",
        "",
        "Each is set on the command line of `quiltfn serve` (`--idle-s 60`), in the environment",
        "(`QUILTFN_IDLE_S=60`) or in the TOML file that `--config` names (`idle_s = 60`); the",
        "first of these that says something wins. Generated from `src/quiltfn/settings.py`.",
        "",
        "| setting | default | range | meaning |",
        "|---|---|---|---|",
    ]
    for field in settings.SETTINGS:
        low, high = field.low, field.high
        shown = field.default if field.default not in ("", Path()) else "none"
        span = f"{low} … {high}" if low is not None else ""
        lines.append(f"| `{field.name}` | {shown} | {span} | {field.about} |")
    return "\n".join([*lines, ""])


STATES = """\
# States

The three state machines, from the tables in `src/quiltfn/model/`. A transition that isn't in a
table raises an error and is logged with the last events. Made by scripts/generate.py.
"""
DELIVERY = """
## Delivery

Each change is one statement (`src/quiltfn/store/calls/deliveries.py`).

| state | means | then |
|---|---|---|
| waiting | It is being sent, or will be again. | accepted → delivered; out of tries → failed |
| delivered | The receiver accepted it; its body is not stored. | the end |
| failed | It is not tried again; the list says why. | retried, if its content is stored → waiting |
"""
MACHINES = (
    ("Function", function.DESCRIPTIONS, function.NEXT),
    ("Instance", instance.DESCRIPTIONS, instance.NEXT),
    ("Invocation", invocation.DESCRIPTIONS, invocation.NEXT),
)


def states() -> str:
    """docs/states.md."""
    parts = [STATES]
    for noun, means, following in MACHINES:
        parts.append(f"\n## {noun}\n\n| state | means | then |\n|---|---|---|\n")
        for state, sentence in means.items():
            arrows = [f"{event.value} → {then.value}" for event, then in following[state].items()]
            parts.append(f"| {state.value} | {sentence} | {'; '.join(arrows) or 'the end'} |\n")
    return "".join([*parts, DELIVERY])


def security_tests() -> str:
    """docs/reference/security-tests.md."""
    rows, page = (
        runpy.run_path(str(ROOT / "tests" / "e2e" / f"security_{one}.py"))
        for one in ("cases", "page")
    )
    return str(page["page"](rows["CASES"]))


ROOT_CODE = """\
# Code that runs as root

The launcher's process loads these files of quiltfn and no others, beside Python's standard library.
Lines are rounded up to 25. What starts as root and then gives it up is not here: the server, crun,
runsc, nft and slirp4netns. Made by scripts/generate.py.

| file | lines | purpose | needs root for |
|---|---|---|---|
"""


def root_code() -> str:
    """docs/reference/root-code.md."""
    made = runpy.run_path(str(ROOT / "tests" / "architecture" / "test_root.py"))
    reasons = made["reasons"]()
    rows, total = [], 0
    for name, path in made["loaded"]().items():
        lines = made["lines_of"](path)
        purpose, reason = purpose_of(path), reasons.get(name, "")
        rows.append(f"| `{name}` | {rounded_up(lines):,} | {purpose} | {reason} |\n")
        total += lines
    return f"{ROOT_CODE}{''.join(rows)}| together | {rounded_up(total):,} | | |\n"


def rounded_up(lines: int) -> int:
    return math.ceil(lines / 25) * 25


def purpose_of(path: Path) -> str:
    """The first sentence of a module's docstring."""
    return promise_pages.first_sentence(ast.get_docstring(ast.parse(path.read_text())) or "")


ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = re.compile(r"(<!-- packages: .*? -->\n).*?(?=<!-- end -->)", re.DOTALL)


def architecture() -> str:
    """docs/architecture.md: what is written by hand, and the packages by the import table."""
    made = runpy.run_path(str(ROOT / "tests" / "architecture" / "layers.py"))
    core, may_know = made["CORE"], made["MAY_KNOW"]
    layers = [[one for one in names if one[0] != "_"] for names in made["layers"]()]
    drawn = [f"{height}  {'  '.join(names)}\n" for height, names in enumerate(layers) if names]
    rows = ["| package | contains | may import |\n|---|---|---|\n"]
    for name in (one for names in reversed(layers) for one in names):
        known = may_know[name]
        some = known - core if core <= known else known
        imports = [f"`{one}`" for one in may_know if one in some]
        if core <= known:
            imports.insert(0, "*core*")
        path = ROOT / "src" / "quiltfn" / name
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        rows.append(f"| `{name}` | {purpose_of(path)} | {', '.join(imports) or 'nothing'} |\n")
    text = f"```\n{''.join(reversed(drawn))}```\n\n{''.join(rows)}"
    return PACKAGES.sub(lambda found: found[1] + text, ARCHITECTURE.read_text())


CLIENT = ROOT / "docs" / "reference" / "python-client.md"
MADE = "<!-- From here on made by scripts/generate.py, from the library itself. -->\n"


def python_client() -> str:
    """docs/reference/python-client.md: what is written by hand, then every method."""
    by_hand, _, _ = CLIENT.read_text().partition(MADE)
    parts = [by_hand, MADE, "\n`client.invoke` is `client.functions.invoke`.\n"]
    results: dict[str, type] = {}
    with Client() as client:
        for group in groups.NAMES:
            for _, method in inspect.getmembers(getattr(client, group), inspect.isfunction):
                returned = inspect.signature(method).return_annotation
                results |= {one.__name__: one for one in schemas_in(returned)}
        for group, methods in api_pages.GROUPS.items():
            parts.append(f"\n### client.{group}\n")
            for name in {name: 0 for one in methods.__mro__[:-1] for name in vars(one)}:
                if not name.startswith("_"):
                    parts.append(described(group, name, getattr(getattr(client, group), name)))
    parts.append("\n## Results\n\nAll of them are in `quiltfn.sdk`.\n")
    parts += [result(results[name]) for name in sorted(results)]
    return "".join(parts)


def schemas_in(kind: Any) -> Iterator[type]:
    """The schemas of the API that a type names, and those of their fields."""
    if is_shape(kind) and kind.__module__.startswith("quiltfn.wire"):
        yield kind
        for field in fields_of(kind).values():
            yield from schemas_in(field.kind)
    for part in get_args(kind):
        yield from schemas_in(part)


def result(shape: Any) -> str:
    """A shape's fields with what they mean."""
    about = " ".join((inspect.getdoc(shape) or "").split())
    rows = [
        f"| `{name}` | {kind(field.kind)}{' or None' if field.is_nullable else ''} | "
        f"{field.described()} |\n"
        for name, field in fields_of(shape).items()
    ]
    head = "| field | type | meaning |\n|---|---|---|\n"
    return f"\n### {shape.__name__}\n\n{about}\n\n{head}{''.join(rows)}"


def described(group: str, name: str, method: Any) -> str:
    signature = inspect.signature(method)
    parameters = ", ".join(parameter(one) for one in in_order(signature))
    result = get_args(signature.return_annotation)[-1]
    is_list = get_origin(signature.return_annotation) is Listing
    answer = f"iterates over {kind(result)}" if is_list else f"→ {kind(result)}"
    about = inspect.cleandoc(method.__doc__)
    return f"\n`{group}.{name}({parameters})` {answer}\n\n{about}\n"


def in_order(signature: inspect.Signature) -> list[inspect.Parameter | None]:
    """The parameters, None before those that have to be named."""
    found: list[inspect.Parameter | None] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and None not in found:
            found.append(None)
        found.append(parameter)
    return found


def parameter(parameter: inspect.Parameter | None) -> str:
    if parameter is None:
        return "*"
    text = f"{parameter.name}: {kind(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    known = isinstance(parameter.default, str | int | float | None)
    return f"{text} = {parameter.default!r}" if known else f"{text} = …"


def kind(annotation: Any) -> str:
    """A type without the modules that it is in."""
    if annotation is type(None):
        return "None"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = str(annotation) if get_args(annotation) else text
    return re.sub(r"\b[a-z_]+\.(?:[a-z_]+\.)*", "", text)


# What the dashboard offers of words that have an order, each from its one place.
LISTS = {
    "FUNCTION_SETTINGS": tuple(fields_of(wire.FunctionChanges)),
    "SCOPES": keys.SCOPES,
    "STATUSES": tuple(invocation.Status),
    "SOURCES": tuple(invocation.Source),
}
# What the dashboard masks and counts as an error, as the command line does.
CONSTANTS = {
    "SECRET_NAME": masking.SECRET_NAME,
    "SECRET_VALUE": masking.SECRET_VALUE,
    "MASK": masking.MASK,
    "HTTP_ERRORS": invocations.HTTP_ERRORS,
}


def page_types() -> str:
    """ui/src/wire.ts: every shape of the API and its lists of words, for the dashboard."""
    shapes = openapi.document(ROUTES, {})["components"]["schemas"]
    lines = [
        "// Every shape of the API, and its lists of words. Made by scripts/generate.py.",
        "",
    ]
    for name, words in LISTS.items():
        listed = ", ".join(json.dumps(str(one)) for one in words)
        lines += [f"export const {name} = [{listed}] as const;", ""]
    for name, constant in CONSTANTS.items():
        lines += [f"export const {name} = {json.dumps(constant)};", ""]
    for name in sorted(shapes):
        shape = shapes[name]
        lines.append(f"export interface {name} {{")
        for field, schema in shape["properties"].items():
            mark = "" if field in shape.get("required", ()) else "?"
            lines.append(f"  {field}{mark}: {page_type(schema)};")
        lines += ["}", ""]
    return "\n".join(lines)


def page_type(schema: dict[str, Any]) -> str:
    """The type of TypeScript that a JSON Schema means."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(page_type(one) for one in schema[union])
    if "enum" in schema:
        return " | ".join(json.dumps(one) for one in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        inner = page_type(schema.get("items", {}))
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object":
        more = schema.get("additionalProperties", {})
        return f"Record<string, {page_type(more) if isinstance(more, dict) else 'unknown'}>"
    plain = {"integer": "number", "number": "number"}
    simple = ("string", "boolean", "null")
    return plain.get(kind or "", kind if kind in simple else "unknown")


PROJECT = """\
# The project file

`quiltfn.toml` describes what `quiltfn deploy` creates ([how to](../how-to/deploy-a-project.md)).
Paths are relative to its directory. What is left out has its default, on the server as well. A
server's settings file, which may have the same name, is another format. Made by
scripts/generate.py.

## Above all tables

{head}
## `[functions.NAME]`

NAME is the function's: {name}.

{function}
Without `runtime`, a function gets a runtime of its own if it sets any of these:

{runtime}
And for every function:

{files}
## `[functions.NAME.url]`

Without this table the function has no URL.

{url}
`webhook` is a table with `scheme` and `secret_from`, the variable with the secret. `cors` is a
table:

{cors}
## `[functions.NAME.schedules.SCHEDULE]`

SCHEDULE is the schedule's name: {schedule_name}. One of `cron` and `every_seconds` is given.

{schedule}
## `[functions.NAME.async_policy]`

{async_policy}
`backoff_seconds` is a table of `first`, `factor`, `most` and `jitter`. `on_success` and
`on_failure` are tables with `function`, or with `url` and `secret_from`. In place of `url` they
take `url_from`, a variable too, for a URL that nobody is to read in the file.

## `[functions.NAME.record_policy]`

{record_policy}"""


def project_page() -> str:
    """docs/reference/project-file.md."""
    left_out = ("name", "function", "cluster_id")
    new, runtime = fields_of(wire.NewFunction), fields_of(wire.NewRuntime)
    schedule = fields_of(wire.NewSchedule)
    made_from = [
        fields_of(project_file.FunctionFiles)[one] for one in ("code", "requirements", "image")
    ]
    of_schedule = [one for one in schedule if one not in left_out]
    others = [fields_of(project_file.FunctionFiles)[one] for one in ("secrets", "adopted")]
    return PROJECT.format(
        head=field_table(fields_of(project_file.Head).values()),
        name=new["name"].meaning,
        function=field_table(one for name, one in new.items() if name not in left_out),
        runtime=field_table([*(runtime[one] for one in project_file.OF_RUNTIME), *made_from]),
        files=field_table(others),
        url=field_table(fields_of(wire.NewFunctionUrl).values()),
        cors=field_table(fields_of(wire.CorsRule).values()),
        schedule_name=schedule["name"].meaning,
        schedule=field_table([*(schedule[one] for one in of_schedule), others[0]]),
        async_policy=field_table(fields_of(wire.NewAsyncPolicy).values()),
        record_policy=field_table(fields_of(wire.RecordPolicy).values()),
    )


def field_table(fields: Iterable[Field]) -> str:
    """Fields as a file of TOML has them, which cannot say null."""
    rows = ["| field | default | meaning |\n|---|---|---|\n"]
    for field in fields:
        is_plain = isinstance(field.default, str | int | float | list) and field.default != []
        default = (
            "required" if field.is_required else f"`{value(field.default)}`" if is_plain else ""
        )
        meaning = field.described(null="left out: ")
        rows.append(f"| `{field.name}` | {default} | {meaning} |\n")
    return "".join(rows)


FILES = {
    ROOT / "ui" / "src" / "wire.ts": page_types,
    CLIENT: python_client,
    ARCHITECTURE: architecture,
    ROOT / "docs" / "reference" / "root-code.md": root_code,
    ROOT / "docs" / "states.md": states,
    ROOT / "packaging" / "quiltfn.toml": sample,
    ROOT / "docs" / "reference" / "settings.md": settings_page,
    ROOT / "docs" / "reference" / "security-tests.md": security_tests,
    ROOT / "docs" / "reference" / "project-file.md": project_page,
    ROOT / "docs" / "reference" / "cli.md": cli_pages.page,
    ROOT / "client" / "quiltfn.1": cli_pages.manual,
    promise_pages.SPECIFICATION: promise_pages.specification,
    promise_pages.INDEX: promise_pages.index,
}


API = ROOT / "docs" / "api"


def main() -> None:
    for path, text in FILES.items():
        path.write_text(text())
        print(path.relative_to(ROOT))
    for name, page in api_pages.pages().items():
        (API / name).write_text(page)
        print((API / name).relative_to(ROOT))


if __name__ == "__main__":
    main()
