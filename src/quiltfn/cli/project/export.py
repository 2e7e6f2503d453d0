"""`quiltfn export`: prints a server's functions as `quiltfn.toml` would describe them."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from quiltfn.cli import show
from quiltfn.cli.output import Output, print_answer
from quiltfn.cli.parsing import Argument, Option
from quiltfn.cli.project import PROJECT_FILE, file, state, toml
from quiltfn.cli.project.plan import LABEL, CurrentFunction, CurrentState, as_wanted
from quiltfn.cli.session import Connection
from quiltfn.wire import NewAsyncPolicy, NewFunction, NewFunctionUrl, NewSchedule, RecordPolicy
from quiltfn.wire.fields import fields_of
from quiltfn.wire.masking import secrets_of, without_path

NO_PROJECT, NOTHING_KNOWN = "", file.KnownSecrets()
# The pattern of the names that `sources` gives runtimes.
OF_A_PROJECT = re.compile(r"(?s)(.+)\.[a-z]+-[0-9a-f]{16}")


def export(
    names: Annotated[
        list[str],
        Argument(metavar="NAME", help="One or more functions.", completes="function"),
    ],
    *,
    values: Annotated[
        bool,
        Option(
            ("--reveal", "--values"),
            help="Include the values of variables that look like secrets, and URLs of destinations "
            "(default: only names of variables, whose values the deployer provides).",
        ),
    ] = False,
    connection: Connection,
) -> None:
    """Print existing functions as tables for quiltfn.toml.

    A function that no project created is marked `adopted`: the file changes it but never deletes
    it. Files are not printed: the table names the runtime.
    """
    with connection.session(reveal=values) as at:
        state.check_scope(at)
        for name in names:
            at.client.functions.get(name)  # raises if the function doesn't exist
        found = state.find(at, NO_PROJECT, names)
        path = Path(PROJECT_FILE)
        known = file.known_secrets(path) if path.is_file() else NOTHING_KNOWN
        tables = {name: described(found, name, known, values=values) for name in names}
        if at.output is not Output.TABLE:
            body = show.encoded({"functions": tables})
            print_answer(at.output, None, body, lambda _: None)  # `described` masks the secrets
            return
        lines = []
        for name, table in tables.items():
            lines += [*_remarks(found.functions[name]), *toml.table(["functions", name], table), ""]
        show.pass_through("\n".join(lines), sys.stdout)


def described(
    found: CurrentState,
    name: str,
    known: file.KnownSecrets = NOTHING_KNOWN,
    *,
    values: bool,
) -> dict[str, Any]:
    """The table of a function, without default values. `known`: the secrets in the project's file.
    `values`: whether to include the values of variables and URLs.
    """
    current = found.functions[name]
    function, listed = current.function, known.variables
    fields = {field: getattr(function, field) for field in file.OF_FUNCTION}
    table = _not_default(NewFunction, fields)
    if not values:
        table = _without_secrets(table, listed.get((name, None), frozenset()))
    if not (function.cluster_id or "").startswith(LABEL):
        table["adopted"] = True
    if current.url is not None:
        url = _not_default(NewFunctionUrl, as_wanted(current.url, NewFunctionUrl))
        named = _named_secrets(url, (name, "url"), known, values=values)
        table["url"] = named or {"auth": current.url.auth}
    policy = _not_default(NewAsyncPolicy, as_wanted(current.async_policy, NewAsyncPolicy))
    table["async_policy"] = _named_secrets(policy, (name, "async_policy"), known, values=values)
    table["record_policy"] = _not_default(RecordPolicy, current.record_policy)
    schedules = {
        schedule.name: _not_default(NewSchedule, schedule, ("name", "function"))
        for schedule in found.schedules.values()
        if schedule.function == name
    }
    table["schedules"] = {
        schedule: fields
        if values
        else _without_secrets(fields, listed.get((name, schedule), frozenset()))
        for schedule, fields in schedules.items()
    }
    return {field: value for field, value in table.items() if value not in ({}, None)}


def _not_default(shape: type[Struct], item: Any, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a schema whose values in `item` differ from the default, as TOML values."""
    found = {}
    for name, field in fields_of(shape).items():
        value = item[name] if isinstance(item, dict) and name in item else getattr(item, name, None)
        if name in left_out or value is None or value == field.default:
            continue
        found[name] = _not_default(type(value), value) if isinstance(value, Struct) else value
    return found


def _without_secrets(table: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The table of a function or a schedule, with only the names of variables that look like
    secrets or are `known` secrets: a masked value would be deployed as the real value.
    """
    variables = table.get("environment", {})
    names = sorted({*secrets_of(variables), *known.intersection(variables)})
    if not names:
        return table
    shown = {name: value for name, value in variables.items() if name not in names}
    kept = {field: value for field, value in table.items() if field != "environment"}
    return kept | ({"environment": shown} if shown else {}) | {file.SECRETS: names}


def _named_secrets(
    table: dict[str, Any], place: tuple[str, str], known: file.KnownSecrets, *, values: bool
) -> dict[str, Any]:
    """The table with variable names instead of secrets, as in the project's file. URLs that may
    contain a secret are replaced likewise, unless `values` is set or the file has them. `place`:
    the function and the name of its table.
    """
    written: dict[str, Any] = {}
    for name, item in table.items():
        written[name] = item
        if isinstance(item, dict) and file.SECRET in item:
            said, kept = known.tables.get((*place, name), {}), dict(item)
            hidden = [(file.SECRET, file.SECRET_FROM)]
            is_shown = values or file.URL in said or file.URL not in item
            if not is_shown and without_path(item[file.URL]) != item[file.URL]:
                hidden.append((file.URL, file.URL_FROM))
            for field, source in hidden:
                made = re.sub("[^A-Z0-9]+", "_", f"{place[0]}_{name}_{field}".upper())
                kept[source] = said.get(source, made)
                del kept[field]
            written[name] = kept
    return written


def _remarks(current: CurrentFunction) -> list[str]:
    label, remarks = current.function.cluster_id or "", []
    if label.startswith(LABEL):
        remarks.append(f"# Belongs to project {show.one_line(label.removeprefix(LABEL))}.")
    made = OF_A_PROJECT.fullmatch(current.function.runtime)
    if made is not None:
        remarks += [
            f"# Project {show.one_line(made[1])} created this runtime from its files, which are "
            "not",
            "# printed. On other servers, replace it by kind, code, and requirements.",
        ]
    return remarks
