"""Plans the steps that make a server match a project: a comparison of two values without I/O."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from msgspec import Struct, field

from quiltfn.cli import show
from quiltfn.wire import (
    Alias,
    AsyncPolicy,
    Function,
    FunctionChanges,
    FunctionUrl,
    NewAsyncPolicy,
    NewDestination,
    NewFunction,
    NewFunctionUrl,
    NewRuntime,
    NewSchedule,
    RecordPolicy,
    Runtime,
    Schedule,
    ScheduleChanges,
)
from quiltfn.wire.fields import fields_of
from quiltfn.wire.masking import masked_text, masked_values, secrets_of

T = TypeVar("T", bound=Struct)

LABEL = "project:"
# The alias that a canary uses, and the field of the step that makes it the default alias.
LIVE, DEFAULT = "live", "default"
# Fields of a runtime that follow from its files and settings, and `shared`, which a project cannot
# set. The other fields are compared one by one.
FROM_FILES = ("name", "image", "base_image", "packages", "packages_key", "environment", "shared")
RUNTIME_SETTINGS = [one for one in fields_of(NewRuntime) if one not in FROM_FILES]


class Verb(StrEnum):
    """What a step does. `PRUNE` removes unused objects, without confirmation."""

    CREATE = "create"
    UPDATE = "update"
    DEPLOY = "deploy"
    DELETE = "delete"
    PRUNE = "prune"


class Noun(StrEnum):
    """The kind of object that a step changes."""

    RUNTIME = "runtime"
    FUNCTION = "function"
    ASYNC_POLICY = "async policy"
    RECORD_POLICY = "record policy"
    URL = "url"
    SCHEDULE = "schedule"
    ALIAS = "alias"


class FieldChange(Struct, frozen=True):
    """A field that gets a new value. Secrets are masked."""

    field: str
    old: Any
    new: Any


class Step(Struct, frozen=True, kw_only=True):
    """`name`: of the runtime, schedule or alias, otherwise of the function. `function`: the
    function that it belongs to.
    """

    verb: Verb
    noun: Noun
    name: str
    function: str | None = None
    changes: tuple[FieldChange, ...] = ()


class DesiredFunction(Struct, frozen=True, kw_only=True):
    """The desired state of a function. `runtime`: created for it, with a name derived from its
    content; `new` refers to this name.
    """

    new: NewFunction
    runtime: NewRuntime | None = None
    url: NewFunctionUrl | None = None
    async_policy: NewAsyncPolicy = field(default_factory=NewAsyncPolicy)
    record_policy: RecordPolicy = field(default_factory=RecordPolicy)
    schedules: Mapping[str, NewSchedule] = {}
    adopted: bool = False
    # The variables of the function and its schedules whose values are not in the project's file.
    secrets: frozenset[str] = frozenset()


class DesiredState(Struct, frozen=True, kw_only=True):
    """The desired state of a project on a server. `canary`: the share of invocations that a new
    version gets through the default alias LIVE. None: aliases stay as they are.
    """

    project: str
    functions: Mapping[str, DesiredFunction] = {}
    canary: float | None = None


class CurrentFunction(Struct, frozen=True, kw_only=True):
    """The current state of a function on a server. `etag`: of this state. `live`: its alias LIVE,
    if that was requested.
    """

    function: Function
    etag: str
    url: FunctionUrl | None
    async_policy: AsyncPolicy
    record_policy: RecordPolicy
    live: Alias | None = None


class CurrentState(Struct, frozen=True, kw_only=True):
    """The current state of a server: the project's functions, other functions with the names of
    desired ones, all schedules, and all runtimes that the tenant can use.
    """

    functions: Mapping[str, CurrentFunction] = {}
    schedules: Mapping[str, Schedule] = {}
    runtimes: Mapping[str, Runtime] = {}


class Plan(Struct, frozen=True, kw_only=True):
    """`refused`: why the plan may not be carried out. `notes`: what stays unchanged, and why.
    `rolled_back`: functions whose version from the file is no longer used, with the reasons.
    """

    steps: tuple[Step, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rolled_back: Mapping[str, str] = {}

    @property
    def deletions(self) -> set[tuple[Noun, str]]:
        """The deletions that need confirmation."""
        return {(one.noun, one.name) for one in self.steps if one.verb is Verb.DELETE}


def plan_for(wanted: DesiredState, found: CurrentState) -> Plan:
    """The steps in order: first runtimes and functions, then policies, URLs and schedules, then
    deletions. Nothing is deleted before everything else exists.
    """
    refused = tuple(_refusals(wanted, found))
    if refused:
        return Plan(refused=refused)
    steps = list(_new_runtimes(wanted, found))
    for function in wanted.functions.values():
        name = function.new.name
        is_there = name in found.functions
        serving = list(_serving(function, found))
        is_updated = any(one.verb is Verb.UPDATE for one in serving)
        named = list(_named(wanted, name, found, is_updated=is_updated))
        # An existing function gets its default alias before the update: it keeps the traffic on the
        # old version until the canary starts. A new function gets it afterwards.
        steps += named if is_there else ()
        steps += serving
        steps += () if is_there else named
        if is_there:
            steps += _canary(wanted, found.functions[name], is_updated=is_updated)
    for name, function in wanted.functions.items():
        steps += _around(name, function, found)
    steps += _deletions(wanted, found)
    updated = {one.name for one in steps if (one.verb, one.noun) == (Verb.UPDATE, Noun.FUNCTION)}
    unchanged = {} if wanted.canary is not None else _elsewhere(wanted, found, updated)
    rolled_back = {
        name: f"version {version} gets no invocations: they run on {show.runs_on(alias)}. Change "
        "the code, or retry the version with: quiltfn deploy --canary 10%"
        for name, (version, alias) in unchanged.items()
        if alias.rolled_back and alias.also is None
    }
    notes = [
        f"invocations of {name} run on {show.runs_on(alias)}; {show.all_on(name, version, alias)}"
        for name, (version, alias) in unchanged.items()
        if name not in rolled_back
    ]
    notes += _notes(wanted, found)
    return Plan(steps=tuple(steps), notes=tuple(notes), rolled_back=rolled_back)


def is_own(project: str, function: Function) -> bool:
    """Whether a function was created for the project."""
    return function.cluster_id == f"{LABEL}{project}"


def _refusals(wanted: DesiredState, found: CurrentState) -> Iterator[str]:
    own = {name for name, one in found.functions.items() if is_own(wanted.project, one.function)}
    default = fields_of(NewFunction)["runtime"].default
    for name, function in wanted.functions.items():
        there = found.functions.get(name)
        runtime = function.new.runtime
        if function.runtime is None and runtime not in (default, *found.runtimes):
            yield (
                f"{name}: runtime {runtime} doesn't exist on the server: choose one from quiltfn "
                "runtimes list, or set code and kind to create one"
            )
        if there is not None and name not in own and not function.adopted:
            label = there.function.cluster_id
            whose = f"has the label {label}" if label else "was not created by a project"
            yield (
                f"there already is a function {name} that {whose}: rename this one, delete the "
                "existing one, or set adopted = true to manage it with this project"
            )
        for schedule in function.schedules:
            other = found.schedules.get(schedule)
            if other is not None and other.function not in own | wanted.functions.keys():
                yield f"there already is a schedule {schedule}, which runs {other.function}"


def _new_runtimes(wanted: DesiredState, found: CurrentState) -> Iterator[Step]:
    names = {one.runtime.name: 0 for one in wanted.functions.values() if one.runtime is not None}
    for name in names:  # once per runtime, since functions may share a runtime
        if name not in found.runtimes:
            yield Step(verb=Verb.CREATE, noun=Noun.RUNTIME, name=name)


def _serving(wanted: DesiredFunction, found: CurrentState) -> Iterator[Step]:
    name = wanted.new.name
    there = found.functions.get(name)
    changes = (*_changes_of(wanted, found),)
    if there is None:
        yield Step(verb=Verb.CREATE, noun=Noun.FUNCTION, name=name, function=name, changes=changes)
    elif changes:
        yield Step(verb=Verb.UPDATE, noun=Noun.FUNCTION, name=name, function=name, changes=changes)
    if there is None or there.function.state not in ("active", "paused"):
        yield Step(verb=Verb.DEPLOY, noun=Noun.FUNCTION, name=name, function=name)


def _named(
    wanted: DesiredState, name: str, found: CurrentState, *, is_updated: bool
) -> Iterator[Step]:
    """For a canary, create the default alias, which keeps invocations on the current version, or
    make an existing alias LIVE the default.
    """
    there = found.functions.get(name)
    if wanted.canary is None:
        return
    live = None if there is None else there.live
    if there is None or live is None:
        yield Step(verb=Verb.CREATE, noun=Noun.ALIAS, name=LIVE, function=name)
    elif not live.default and (is_updated or live.version == there.function.current_version):
        change = FieldChange(DEFAULT, None, "invocations without a version or alias")
        yield Step(verb=Verb.UPDATE, noun=Noun.ALIAS, name=LIVE, function=name, changes=(change,))


def _canary(wanted: DesiredState, there: CurrentFunction, *, is_updated: bool) -> Iterator[Step]:
    """Give the new version its share of the invocations, even if an earlier deploy was killed
    before that, or if the version was rolled back since.
    """
    weight, live, current = wanted.canary, there.live, there.function.current_version
    if weight is None:
        return
    is_behind = live is not None and live.version != current
    also = None if live is None or live.also is None else live.also
    has_it = also is not None and (also.version, also.weight) == (current, weight)
    has_it = has_it and live is not None and live.default
    if is_updated or (is_behind and not has_it):
        change = FieldChange("also", None, f"the new version, {weight * 100:g}% of the invocations")
        name = there.function.name
        yield Step(verb=Verb.UPDATE, noun=Noun.ALIAS, name=LIVE, function=name, changes=(change,))


def _changes_of(wanted: DesiredFunction, found: CurrentState) -> Iterator[FieldChange]:
    there = found.functions.get(wanted.new.name)
    if there is None:
        defaults = fields_of(NewFunction)
        for name in fields_of(FunctionChanges):
            value = getattr(wanted.new, name)
            if name != "name" and value != defaults[name].default:
                yield from _changed(name, None, value, wanted.secrets)
        return
    for name in changed_fields(wanted.new, there.function):
        old, new = getattr(there.function, name), getattr(wanted.new, name)
        yield from _changed(name, old, new, wanted.secrets)
    before = found.runtimes.get(there.function.runtime)
    if wanted.runtime is not None and before is not None and before.name != wanted.runtime.name:
        for name in RUNTIME_SETTINGS:
            old, new = getattr(before, name), getattr(wanted.runtime, name)
            yield from _changed(name, old or None, new or None)


def changed_fields(new: NewFunction, old: Function) -> list[str]:
    """The fields that an update has to contain."""
    return [one for one in fields_of(FunctionChanges) if getattr(old, one) != getattr(new, one)]


def _changed(name: str, old: Any, new: Any, secrets: Collection[str] = ()) -> Iterator[FieldChange]:
    """The change of a field, if there is one. `secrets`: variables whose values are masked, besides
    those that look like secrets. If the old or the new value is masked, so is the other. Removed
    values are always masked, since they may have been secrets before.
    """
    if old == new:
        return
    if name == "environment":
        before, after = old or {}, new or {}
        hidden = {
            *secrets,
            *secrets_of(before),
            *secrets_of(after),
            *(before.keys() - after.keys()),
        }
        was, is_now = masked_values(before, hidden), masked_values(after, hidden)
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield FieldChange(f"{name}.{key}", was.get(key), is_now.get(key))
        return
    yield FieldChange(name, without_secrets(old), without_secrets(new))


def without_secrets(value: Any) -> Any:
    """A value for display: as JSON types, with secrets masked."""
    if isinstance(value, Struct):
        fields = {one: getattr(value, one) for one in value.__struct_fields__}
        return {
            name: masked_text(name, one) if isinstance(one, str) else without_secrets(one)
            for name, one in fields.items()
            if one is not None
        }
    return value


def _around(name: str, wanted: DesiredFunction, found: CurrentState) -> Iterator[Step]:
    """The steps for a function's policies, URL and schedules."""
    there = found.functions.get(name)
    before = NewAsyncPolicy() if there is None else as_wanted(there.async_policy, NewAsyncPolicy)
    kept = RecordPolicy() if there is None else there.record_policy
    yield from _set(Noun.ASYNC_POLICY, name, before, wanted.async_policy)
    yield from _set(Noun.RECORD_POLICY, name, kept, wanted.record_policy)
    url = None if there is None or there.url is None else as_wanted(there.url, NewFunctionUrl)
    if wanted.url is not None:
        yield from _set(Noun.URL, name, url, wanted.url)
    for schedule, fields in wanted.schedules.items():
        yield from _schedule(fields, found.schedules.get(schedule), name, wanted.secrets)


def _set(noun: Noun, name: str, old: Struct | None, new: Struct) -> Iterator[Step]:
    if old == new:
        return
    verb = Verb.CREATE if old is None else Verb.UPDATE
    changes = tuple(_differences(old, new, fields_of(type(new))))
    yield Step(verb=verb, noun=noun, name=name, function=name, changes=changes)


def _schedule(
    new: NewSchedule, old: Schedule | None, function: str, secrets: Collection[str]
) -> Iterator[Step]:
    fields = [one for one in fields_of(ScheduleChanges) if old is not None or one != "function"]
    changes = tuple(_differences(old, new, fields, secrets))
    verb = Verb.CREATE if old is None else Verb.UPDATE
    if changes or old is None:
        yield Step(verb=verb, noun=Noun.SCHEDULE, name=new.name, function=function, changes=changes)


def _differences(
    old: Struct | None, new: Struct, fields: Collection[str], secrets: Collection[str] = ()
) -> Iterator[FieldChange]:
    """The changes field by field; for a new object, the fields that differ from the default."""
    defaults = fields_of(type(new))
    for name in fields:
        before = defaults[name].default if old is None else getattr(old, name)
        for change in _changed(name, before, getattr(new, name), secrets):
            yield FieldChange(change.field, None, change.new) if old is None else change


def as_wanted(found: AsyncPolicy | FunctionUrl, shape: type[T]) -> T:
    """Convert a server's response to the schema of the request, for comparison."""
    fields = {name: getattr(found, name) for name in fields_of(shape)}
    for name in ("on_success", "on_failure"):
        if (destination := fields.get(name)) is not None:
            fields[name] = NewDestination(
                function=destination.function, url=destination.url, secret=destination.secret
            )
    return shape(**fields)


def _deletions(wanted: DesiredState, found: CurrentState) -> Iterator[Step]:
    own = {name for name, one in found.functions.items() if is_own(wanted.project, one.function)}
    schedules = {one for function in wanted.functions.values() for one in function.schedules}
    for name, schedule in found.schedules.items():
        if name not in schedules and schedule.function in own | wanted.functions.keys():
            yield Step(verb=Verb.DELETE, noun=Noun.SCHEDULE, name=name, function=schedule.function)
    for name, function in wanted.functions.items():
        there = found.functions.get(name)
        if function.url is None and there is not None and there.url is not None:
            yield Step(verb=Verb.DELETE, noun=Noun.URL, name=name, function=name)
    for name in found.functions:
        if name in own - wanted.functions.keys():
            yield Step(verb=Verb.DELETE, noun=Noun.FUNCTION, name=name, function=name)
    used = {one.new.runtime for one in wanted.functions.values()}
    for name, runtime in found.runtimes.items():
        is_ours = name.startswith(f"{wanted.project}.") and not runtime.shared
        if is_ours and name not in used:
            yield Step(verb=Verb.PRUNE, noun=Noun.RUNTIME, name=name)


def _elsewhere(
    wanted: DesiredState, found: CurrentState, updated: Collection[str]
) -> dict[str, tuple[int, Alias]]:
    """The current version and the default alias of unchanged functions whose invocations run on
    other versions.
    """
    return {
        name: (one.function.current_version, alias)
        for name, one in found.functions.items()
        if name in wanted.functions.keys() - updated
        and (alias := show.elsewhere(one.function)) is not None
    }


def _notes(wanted: DesiredState, found: CurrentState) -> Iterator[str]:
    for name, function in wanted.functions.items():
        there = found.functions.get(name)
        if there is not None and there.function.state == "paused":
            yield f"{name} is paused, and stays paused; to resume: quiltfn functions resume {name}"
        is_named = function.runtime is None
        if is_named and there is not None and there.function.runtime_outdated is True:
            brought = f"quiltfn functions update {name} --runtime {there.function.runtime}"
            yield f"the runtime of {name} was replaced; to use the new one: {brought}"
