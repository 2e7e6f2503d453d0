"""Reads `quiltfn.toml`. Fields that the API has, too, get their types, limits and meanings from the
schemas of `quiltfn.wire`.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from msgspec import Struct

from quiltfn.cli.parsing import BadParameter, nearest
from quiltfn.cli.project import PROJECT_FILE
from quiltfn.cli.project.plan import RUNTIME_SETTINGS, DesiredFunction
from quiltfn.cli.show import one_line
from quiltfn.cli.tree import is_outside
from quiltfn.wire import (
    NewAsyncPolicy,
    NewFunction,
    NewFunctionUrl,
    NewRuntime,
    NewSchedule,
    RecordPolicy,
)
from quiltfn.wire.check import NO_LIMITS, Invalid, checked
from quiltfn.wire.constraints import Pattern, Rule
from quiltfn.wire.fields import about, fields_of
from quiltfn.wire.functions import CLEANUP_FIELD
from quiltfn.wire.masking import MASK
from quiltfn.wire.work import SECRET_PREFIX

ENV_FILE = ".env"
# These files are not part of a function's code: the first would turn every change of a schedule
# into a new version, and the others contain secrets.
NOT_CODE = (PROJECT_FILE, ENV_FILE, f"{ENV_FILE}.*")
PROJECT_NAME = "[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?"
ENVIRONMENT_NAME = "[a-z0-9](?:[a-z0-9-]{0,14}[a-z0-9])?"
ENVIRONMENTS = "environments"
VARIABLE = "(?!QUILT_)[A-Za-z_][A-Za-z0-9_]*"
WRONG_FIELDS_MAX = 50

# Prefixes of skopeo's references to local images.
LOCAL_IMAGES = (
    *("oci:", "oci-archive:", "docker-archive:", "docker-daemon:"),
    *("containers-storage:", "dir:"),
)
HOW = "to allow it: --allow-outside"

T = TypeVar("T", bound=Struct)


def _wrong_variables(names: list[str]) -> str | None:
    if len(set(names)) < len(names) or any(not re.fullmatch(VARIABLE, one) for one in names):
        return "a list of different variable names"
    return None


ProjectName = Annotated[
    str,
    about(
        "the project's name, which marks its functions on the server: 1 to 32 lowercase letters, "
        "digits or dashes; begins and ends with a letter or digit",
        "shop",
        Pattern(PROJECT_NAME, "1 to 32 lowercase letters, digits or dashes, not ending in a dash"),
    ),
]
CodeDirectory = Annotated[
    str, about("the directory with the files for /app, relative to this file", ".")
]
Requirements = Annotated[
    str,
    about(
        "the file that lists Python packages (default: that of the code directory)",
        "requirements.txt",
    ),
]
RootImage = Annotated[
    str,
    about(
        "the root file system: an image by its reference, or the path of its archive or OCI "
        "layout; pulled again if this value changes",
        "docker.io/library/alpine:3.22",
    ),
]
Secrets = Annotated[
    list[str],
    about(
        f"variables whose values come from the deployer's environment or from the file {ENV_FILE}, "
        "and are never in this file",
        ["API_TOKEN"],
        Rule(_wrong_variables, {"items": {"type": "string", "pattern": f"^{VARIABLE}$"}}),
    ),
]
Adopted = Annotated[
    bool,
    about(
        "whether the function existed before the project: it is changed like the others, but never "
        "deleted",
        False,
    ),
]


class FunctionFiles(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The fields of a function that the API doesn't have: its files, and how the project treats
    it.
    """

    code: CodeDirectory | None = None
    requirements: Requirements | None = None
    image: RootImage | None = None
    secrets: Secrets = []
    adopted: Adopted = False


class ScheduleSecrets(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The fields of a schedule that the API doesn't have."""

    secrets: Secrets = []


class Head(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The fields above the functions."""

    project: ProjectName


# The API's fields of a function, except those that are derived in a project.
OF_FUNCTION = [one for one in fields_of(NewFunction) if one not in ("name", "cluster_id")]
OF_RUNTIME = RUNTIME_SETTINGS
OF_FILES = list(fields_of(FunctionFiles))
# The tables below a function's.
SCHEDULES = "schedules"
TABLES: Mapping[str, type[Struct]] = {
    "url": NewFunctionUrl,
    "async_policy": NewAsyncPolicy,
    "record_policy": RecordPolicy,
}
# Tables and fields with a secret in the API; the file has the name of the secret's variable.
WITH_SECRET = {"url": ("webhook",), "async_policy": ("on_success", "on_failure")}
SECRET, SECRET_FROM, URL, URL_FROM = "secret", "secret_from", "url", "url_from"
SECRETS = "secrets"


class FunctionTable(DesiredFunction, frozen=True, kw_only=True):
    """One `[functions.NAME]`. `runtime`: the settings of a new runtime, which has a kind and no
    name yet; None if the table names an existing runtime. `environment` of `new` includes the
    secrets.
    """

    files: FunctionFiles


class ProjectFile(Struct, frozen=True, kw_only=True):
    """The content of the file. `project`: see `identity`. `directory`: where the file is."""

    project: str
    directory: Path
    functions: Mapping[str, FunctionTable]


def read(
    path: Path,
    variables: Mapping[str, str],
    limits: Mapping[str, float] = NO_LIMITS,
    *,
    allows_outside: bool = False,
    environment: str | None = None,
) -> ProjectFile:
    """Read the file. `variables`: values of secrets. `limits`: the server's limits.
    `allows_outside`: the file may name files outside of its directory. `environment`: see
    `identity`. Raises `BadParameter`, which names each invalid field.
    """
    reader = _Reader(path, variables, limits, allows_outside, environment)
    found = reader.project(_content(path, "quiltfn init creates one"))
    if reader.wrong:
        raise BadParameter("\n".join(reader.wrong[:WRONG_FIELDS_MAX]))
    return found


class KnownSecrets(Struct, frozen=True):
    """The secrets that a project's file names. `variables`: listed variables, by function and
    schedule (None: of the function). `tables`: variables of `secret_from`, by function, table (such
    as url), and field.
    """

    variables: Mapping[tuple[str, str | None], frozenset[str]] = {}
    tables: Mapping[tuple[str, str, str], Mapping[str, Any]] = {}


def known_secrets(path: Path) -> KnownSecrets:
    """The secrets in the file; other content is ignored. Raises `BadParameter`."""
    found, tables, content = {}, {}, _content(path)
    functions = dict(_tables_in(content, "functions"))
    named = [("", *one) for one in functions.items()]
    for environment, overrides in _tables_in(content, ENVIRONMENTS):
        whole = _merged(functions, dict(_tables_in(overrides, "functions")))
        named += [(f"{environment}-", *one) for one in whole.items()]
    for prefix, short, table in named:
        name = prefix + short
        for below, fields in WITH_SECRET.items():
            for field, item in _tables_in(table, below):
                if field in fields:
                    tables[name, below, field] = item
        schedules = [(prefix + one, item) for one, item in _tables_in(table, SCHEDULES)]
        for schedule, item in ((None, table), *schedules):
            listed = item.get(SECRETS)
            texts = listed if isinstance(listed, list) else []
            found[name, schedule] = frozenset(text for text in texts if isinstance(text, str))
    return KnownSecrets(found, tables)


def _tables_in(table: Mapping[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    inner = table.get(name)
    items = inner.items() if isinstance(inner, dict) else ()
    return [(key, one) for key, one in items if isinstance(one, dict)]


def project_of(path: Path, environment: str | None = None) -> str:
    """The identity of the project, or of its environment. Raises `BadParameter`."""
    content = _content(path)
    try:
        project = checked({"project": content.get("project")}, Head).project
    except Invalid as error:
        raise BadParameter(f"{path}: {error.message}") from None
    if environment is not None:
        _overrides(content, environment, path)
    return identity(project, environment)


def identity(project: str, environment: str | None) -> str:
    """The name that marks functions and runtimes on a server: the project's, or that of one of its
    environments, which is deployed beside it. No project's name contains an underscore.
    """
    return project if environment is None else f"{project}_{environment}"


def _overrides(content: Mapping[str, Any], environment: str, path: Path) -> dict[str, Any]:
    """The table of an environment. Raises `BadParameter` if the file has none of this name."""
    tables = dict(_tables_in(content, ENVIRONMENTS))
    if environment in tables:
        return tables[environment]
    known = f"it has {', '.join(sorted(tables))}" if tables else f"add [{ENVIRONMENTS}.NAME]"
    raise BadParameter(f"{path} has no environment {environment}", known)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the fields of `above`; tables in both are merged likewise."""
    merged = dict(below)
    for name, item in above.items():
        is_table = isinstance(item, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], item) if is_table else item
    return merged


def _content(path: Path, hint: str | None = None) -> dict[str, Any]:
    """The tables of the file. `hint`: what to do if there is none. Raises `BadParameter`."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadParameter(f"there is no {path}", hint) from None
    except (OSError, ValueError) as error:
        raise BadParameter(f"{path} cannot be read: {error}") from None


def variables_in(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of an env file. Raises `BadParameter`."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise BadParameter(f"{path} cannot be read: {error}") from None
    found = {}
    for number, whole in enumerate(lines, 1):
        line = whole.strip().removeprefix("export ")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise BadParameter(f"{path}, line {number}: expected KEY=VALUE")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


class _Reader:
    """Reads one file. `wrong`: a sentence for each invalid field."""

    def __init__(
        self,
        path: Path,
        variables: Mapping[str, str],
        limits: Mapping[str, float],
        allows_outside: bool,
        environment: str | None,
    ) -> None:
        self._path, self._variables, self._limits = path, variables, limits
        self._allows_outside = allows_outside
        self._environment = environment
        # Of each name that the file gives to a function or a schedule.
        self._prefix = "" if environment is None else f"{environment}-"
        self._own: frozenset[str] = frozenset()
        self.wrong: list[str] = []

    def project(self, said: dict[str, Any]) -> ProjectFile:
        said = self._with_environment(said)
        tables = said.get("functions", {})
        head = {name: one for name, one in said.items() if name != "functions"}
        found = self._checked(head, Head, "", [*fields_of(Head), "functions", ENVIRONMENTS])
        self._own = frozenset(tables) if isinstance(tables, dict) else frozenset()
        functions = {}
        for name, table in self._tables(tables, "functions").items():
            functions[name] = self._function(name, table)
        self._check_schedules(functions)
        return ProjectFile(
            project=identity(found.project, self._environment),
            directory=self._path.parent,
            functions={one.new.name: one for one in functions.values() if one is not None},
        )

    def _with_environment(self, said: dict[str, Any]) -> dict[str, Any]:
        """The file's tables, with those of the chosen environment merged into them."""
        environments = self._tables(said.get(ENVIRONMENTS, {}), ENVIRONMENTS)
        for name, table in environments.items():
            place = f"{ENVIRONMENTS}.{name}"
            if not re.fullmatch(ENVIRONMENT_NAME, name):
                wanted = "1 to 16 lowercase letters, digits or dashes, not ending in a dash"
                self._tell(place, f"the name of an environment must be {wanted}")
            for field in [one for one in table if one != "functions"]:
                self._unknown(place, field, ["functions"])
        plain = {name: one for name, one in said.items() if name != ENVIRONMENTS}
        if self._environment is None:
            return plain
        return _merged(plain, _overrides(said, self._environment, self._path))

    def _function(self, name: str, said: dict[str, Any]) -> FunctionTable | None:
        before, place = len(self.wrong), f"functions.{name}"
        known = [*OF_FUNCTION, *OF_RUNTIME, *OF_FILES, *TABLES, SCHEDULES]
        for unknown in [one for one in said if one not in known]:
            self._unknown(place, unknown, known)

        def part(names: Collection[str], **more: Any) -> dict[str, Any]:
            return {one: said[one] for one in said if one in names} | more

        files = self._checked(part(OF_FILES), FunctionFiles, place, OF_FILES)
        own = part(OF_FUNCTION, name=self._prefix + name)
        # One process of the web server handles all invocations.
        is_server = said.get("kind") == "server"
        if is_server and own.setdefault(CLEANUP_FIELD, False) is True:
            self._tell(place, f"{CLEANUP_FIELD} must be false with kind server")
        new = self._checked(own, NewFunction, place, OF_FUNCTION)
        runtime = None
        if any(one in said for one in (*OF_RUNTIME, "code", "requirements", "image")):
            if "runtime" in said:
                self._tell(
                    place, "runtime cannot be combined with kind, code, requirements or image"
                )
            made = part(OF_RUNTIME, name="made")
            runtime = self._checked(made, NewRuntime, place, OF_RUNTIME)
        self._check_paths(place, files)
        below: dict[str, Any] = {}
        for table, shape in TABLES.items():
            if table in said:
                below[table] = self._below(f"{place}.{table}", table, said[table], shape)
        schedules = self._tables(said.get(SCHEDULES, {}), f"{place}.{SCHEDULES}")
        below[SCHEDULES] = {
            self._prefix + one: self._schedule(f"{place}.{SCHEDULES}.{one}", one, name, table)
            for one, table in schedules.items()
        }
        new = self._with_secrets(place, new, files.secrets)
        if len(self.wrong) > before:
            return None
        return FunctionTable(
            new=new,
            files=files,
            runtime=runtime,
            adopted=files.adopted,
            secrets=frozenset(files.secrets).union(*map(secrets_in, schedules.values())),
            **below,
        )

    def _below(self, place: str, table: str, said: Any, shape: type[T]) -> T:
        if isinstance(said, dict):
            said = {
                name: self._secret(f"{place}.{name}", one)
                if name in WITH_SECRET.get(table, ())
                else one
                for name, one in said.items()
            }
        found = self._checked(said, shape, place, list(fields_of(shape)))
        if isinstance(found, NewFunctionUrl):
            webhook = found.webhook
            has_one = isinstance(said, dict) and bool(said.get("webhook"))
            if (found.auth == "webhook") != has_one:
                self._tell(place, 'auth = "webhook" requires a webhook table, and vice versa')
            secret = None if webhook is None or webhook.scheme == "github" else webhook.secret
            if webhook is not None and secret is not None and not secret.startswith(SECRET_PREFIX):
                wrong = f"a secret of {webhook.scheme} must begin with {SECRET_PREFIX}"
                self._tell(f"{place}.webhook", wrong)
        return found

    def _secret(self, place: str, said: Any) -> Any:
        """The table with the secret, and the URL, from the variables that it names."""
        if not isinstance(said, dict):
            return said
        not_kept = (SECRET, SECRET_FROM, URL_FROM)
        kept = {name: one for name, one in said.items() if name not in not_kept}
        if kept.get("function") in self._own:  # a destination that the project deploys itself
            kept["function"] = f"{self._prefix}{kept['function']}"
        if URL in said and URL_FROM in said:
            self._tell(place, f"give one of {URL} and {URL_FROM}")
        elif URL_FROM in said:
            kept[URL] = self._variable(place, URL_FROM, said[URL_FROM])
        if MASK in str(kept.get(URL)):
            self._tell(place, f"url must be the real URL, not one with {MASK}")
        if SECRET in said:
            self._tell(
                place, f"{SECRET} must not be in this file: name its variable with {SECRET_FROM}"
            )
        elif SECRET_FROM in said:
            value = self._variable(place, SECRET_FROM, said[SECRET_FROM])
            kept |= {} if value is None else {SECRET: value}
        elif "scheme" in said or URL in kept:
            self._tell(place, f"{SECRET_FROM} is required: the variable with the secret")
        return kept

    def _variable(self, place: str, name: str, variable: Any) -> str | None:
        value = self._variables.get(variable) if isinstance(variable, str) else None
        if not isinstance(variable, str):
            self._tell(place, f"{name} must be the name of a variable")
        elif value is None:
            self._tell(
                place, f"{name}: {variable} is neither in your environment nor in {ENV_FILE}"
            )
        elif value == MASK:
            self._tell(place, f"{name}: {variable} must be the real value, not {MASK}")
        return value

    def _with_secrets(self, place: str, new: T, secrets: Collection[str]) -> T:
        """A function or a schedule with the values of its secrets."""
        environment: dict[str, str] = dict(getattr(new, "environment") or {})  # noqa: B009 — of T
        for variable, value in environment.items():
            if value == MASK:
                self._tell(place, f"environment.{variable} must be the real value, not {MASK}")
        for variable in secrets:
            if variable in environment:
                self._tell(place, f"{variable} is in environment and in secrets")
            value_now = self._variable(place, "secrets", variable)
            environment |= {} if value_now is None else {variable: value_now}
        return _replaced(new, environment=environment) if environment else new

    def _schedule(self, place: str, name: str, function: str, said: Any) -> NewSchedule:
        fields = [one for one in fields_of(NewSchedule) if one not in ("name", "function")]
        for key in ("name", "function"):
            if key in said:
                self._unknown(place, key, fields)
        own = {one: value for one, value in said.items() if one == SECRETS}
        secrets = self._checked(own, ScheduleSecrets, place, [SECRETS]).secrets
        whole = {one: value for one, value in said.items() if one != SECRETS}
        whole |= {"name": self._prefix + name, "function": self._prefix + function}
        found = self._checked(whole, NewSchedule, place, [*fields, SECRETS])
        found = self._with_secrets(place, found, secrets)
        # The file's own values, since `found` has lost invalid fields, which were reported.
        if len([one for one in ("cron", "every_seconds") if said.get(one) is not None]) != 1:
            self._tell(place, "give one of cron and every_seconds")
        return found

    def _check_schedules(self, functions: Mapping[str, FunctionTable | None]) -> None:
        first: dict[str, str] = {}
        for function, table in functions.items():
            for name in () if table is None else table.schedules:
                other = first.setdefault(name, function)
                if other != function:
                    self._tell(
                        f"functions.{function}.{SCHEDULES}.{name}",
                        f"names of schedules must be unique, but functions.{other} has this one, "
                        "too",
                    )

    def _check_paths(self, place: str, files: FunctionFiles) -> None:
        directory = self._path.parent
        if files.code is not None and not (directory / files.code).is_dir():
            self._tell(place, f"code must be a directory, but {files.code} is not")
        if files.requirements is not None and not (directory / files.requirements).is_file():
            self._tell(place, f"requirements must be a file, but {files.requirements} is not")
        if self._allows_outside:
            return
        for name in ("code", "requirements", "image"):
            value = getattr(files, name)
            if value is not None and is_outside(directory, value):
                self._tell(place, f"{name} must be in the project's directory, not {value}; {HOW}")
        if files.image is not None and files.image.startswith(LOCAL_IMAGES):
            wanted = "the reference of an image in a registry, or a path in the project's directory"
            self._tell(place, f"image must be {wanted}, not {files.image}; {HOW}")

    def _tables(self, said: Any, place: str) -> dict[str, dict[str, Any]]:
        """The nested tables of a table. Values that are not tables are reported and left out."""
        if not isinstance(said, dict):
            self._tell("", f"{place} must be a table of tables, as [{place}.NAME]")
            return {}
        for name, item in said.items():
            if not isinstance(item, dict):
                self._tell(place, f"{name} must be a table, as [{place}.{name}]")
        return {name: one for name, one in said.items() if isinstance(one, dict)}

    def _checked(self, said: Any, shape: type[T], place: str, known: Collection[str]) -> T:
        """Convert `said` to a schema even if fields are invalid: each is reported and left out, or
        replaced by an example if it is required.
        """
        value = dict(said) if isinstance(said, dict) else said
        if not isinstance(value, dict):
            self._tell(place, "must be a table")
            value = {}
        fields = fields_of(shape)
        while True:
            try:
                return checked(value, shape, self._limits)
            except Invalid as error:
                name = error.path.partition(".")[0].partition("[")[0]
                if name not in fields:
                    self._unknown(place, name, known)
                    value.pop(name)
                    continue
                self._tell(place, error.message)
                value.pop(name, None)
                if fields[name].is_required:
                    value[name] = fields[name].example

    def _unknown(self, place: str, name: str, known: Collection[str]) -> None:
        fields = [*fields_of(NewFunction).values(), *fields_of(NewRuntime).values()]
        by_short = {one.short: one.name for one in fields if one.name in known}
        meant = by_short.get(name) or nearest(name, list(known))
        hint = f"is it {meant}?" if meant else f"there are: {', '.join(known)}"
        self._tell(place, f"{name} is not a field of this table; {hint}")

    def _tell(self, place: str, sentence: str) -> None:
        at = f"{self._path}: [{place}] " if place else f"{self._path}: "
        self.wrong.append(one_line(f"{at}{sentence}"))


def secrets_in(schedule: Mapping[str, Any]) -> list[str]:
    """The names that a schedule's table lists as secrets, if they are valid."""
    return schedule.get(SECRETS) or []


def _replaced(new: T, **fields: Any) -> T:
    from msgspec.structs import replace  # noqa: PLC0415

    return replace(new, **fields)
