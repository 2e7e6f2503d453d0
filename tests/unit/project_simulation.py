"""A simulated server that performs the steps of a plan, with the effects that plans can observe."""

import itertools
from collections.abc import Iterable
from typing import Any

from msgspec.structs import asdict, replace

from quiltfn import wire
from quiltfn.cli.project.plan import (
    DEFAULT,
    LABEL,
    LIVE,
    CurrentFunction,
    CurrentState,
    DesiredState,
    Step,
    Verb,
    changed_fields,
)

ids = itertools.count()


def function_of(new: wire.NewFunction, **more: Any) -> wire.Function:
    set_by_server: dict[str, Any] = {
        **{"id": f"id-{next(ids)}", "tenant_id": "default", "owner_node_id": "n1"},
        **{"state": "pending", "current_version": 1, "created_at": 0, "updated_at": 0},
        **{"last_invoked_at": None, "invocation_count": 0, "error_count": 0},
        "error_message": None,
    }
    return wire.Function(**asdict(new) | set_by_server | more)


def policy_of(new: wire.NewAsyncPolicy) -> wire.AsyncPolicy:
    def destination_of(destination: wire.NewDestination | None) -> wire.Destination | None:
        return None if destination is None else wire.Destination(**asdict(destination))

    ends = {
        "on_success": destination_of(new.on_success),
        "on_failure": destination_of(new.on_failure),
    }
    return wire.AsyncPolicy(**asdict(new) | ends)


def url_of(new: wire.NewFunctionUrl, name: str) -> wire.FunctionUrl:
    return wire.FunctionUrl(
        **asdict(new), path=f"/fn/default/{name}", host=None, refused={"size": 3}
    )


def schedule_of(new: wire.NewSchedule) -> wire.Schedule:
    set_by_server: dict[str, Any] = {
        **{"id": "s", "created_at": 0, "updated_at": 0, "next_runs": [1], "last_run": None},
        **{"fired_count": 4, "skipped_count": 0, "missed_count": 0},
    }
    return wire.Schedule(**asdict(new) | set_by_server)


def runtime_of(new: wire.NewRuntime, **more: Any) -> wire.Runtime:
    fields = {
        name: one for name, one in asdict(new).items() if name in wire.Runtime.__struct_fields__
    }
    fields["command"] = fields["command"] or []
    own: dict[str, Any] = {"id": "r", "interpreter": "", "image_digest": "d", "created_at": 0}
    return wire.Runtime(**fields | own | {"built_in": False, "shared": False} | more)


def found_function(function: wire.Function) -> CurrentFunction:
    return CurrentFunction(
        function=function,
        etag='"1"',
        url=None,
        async_policy=policy_of(wire.NewAsyncPolicy()),
        record_policy=wire.RecordPolicy(),
    )


class Simulation:
    """The state of a server, changed step by step."""

    def __init__(self, wanted: DesiredState, found: CurrentState) -> None:
        self.wanted = wanted
        self.functions = dict(found.functions)
        self.schedules = dict(found.schedules)
        self.runtimes = dict(found.runtimes)

    @property
    def found(self) -> CurrentState:
        return CurrentState(
            functions=dict(self.functions),
            schedules=dict(self.schedules),
            runtimes=dict(self.runtimes),
        )

    def perform(self, steps: Iterable[Step]) -> None:
        for step in steps:
            getattr(self, step.noun.name.lower())(step)

    def runtime(self, step: Step) -> None:
        if step.verb is Verb.PRUNE:
            del self.runtimes[step.name]
            return
        assert step.name not in self.runtimes
        made = [one.runtime for one in self.wanted.functions.values() if one.runtime]
        new = next(one for one in made if one.name == step.name)
        self.runtimes[step.name] = runtime_of(new)

    def function(self, step: Step) -> None:
        if step.verb is Verb.DELETE:
            del self.functions[step.name]
            # The server deletes a function's schedules with the function.
            assert all(one.function != step.name for one in self.schedules.values())
            return
        if step.verb is Verb.DEPLOY:
            self._change(step.name, state="active")
            return
        wanted = self.wanted.functions[step.name]
        if wanted.runtime is not None:
            assert wanted.runtime.name in self.runtimes, "a function before its runtime"
        if step.verb is Verb.CREATE:
            assert step.name not in self.functions
            label = None if wanted.adopted else f"{LABEL}{self.wanted.project}"
            made = function_of(wanted.new, cluster_id=label)
            self.functions[step.name] = found_function(made)
            return
        there = self.functions[step.name].function
        names = changed_fields(wanted.new, there)
        assert names, "an update of nothing makes a version"
        changes = {one: getattr(wanted.new, one) for one in names}
        self._change(step.name, **changes, current_version=there.current_version + 1)

    def _change(self, name: str, **fields: Any) -> None:
        entry = self.functions[name]
        self.functions[name] = replace(entry, function=replace(entry.function, **fields))

    def async_policy(self, step: Step) -> None:
        policy = policy_of(self.wanted.functions[step.name].async_policy)
        self.functions[step.name] = replace(self.functions[step.name], async_policy=policy)

    def record_policy(self, step: Step) -> None:
        policy = self.wanted.functions[step.name].record_policy
        self.functions[step.name] = replace(self.functions[step.name], record_policy=policy)

    def url(self, step: Step) -> None:
        new = None if step.verb is Verb.DELETE else self.wanted.functions[step.name].url
        url = None if new is None else url_of(new, step.name)
        self.functions[step.name] = replace(self.functions[step.name], url=url)

    def alias(self, step: Step) -> None:
        assert self.wanted.canary is not None
        assert step.function is not None
        there = self.functions[step.function]
        current = there.function.current_version
        if step.verb is Verb.CREATE:
            assert there.live is None
            live = wire.Alias(name=LIVE, version=current, also=None, default=True, updated_at=1)
        elif step.changes[0].field == DEFAULT:
            assert there.live is not None
            assert not there.live.default
            live = replace(there.live, version=current, also=None, default=True)
        else:
            assert there.live is not None, "a part of the calls of no alias"
            also = wire.AliasShare(version=current, weight=self.wanted.canary)
            assert there.live.version != current, "a version beside itself"
            live = replace(there.live, also=also, default=True, rolled_back=None)
        self.functions[step.function] = replace(there, live=live)

    def schedule(self, step: Step) -> None:
        if step.verb is Verb.DELETE:
            del self.schedules[step.name]
            return
        assert step.function in self.functions, "a schedule of no function"
        assert (step.verb is Verb.CREATE) == (step.name not in self.schedules)
        new = self.wanted.functions[step.function].schedules[step.name]
        self.schedules[step.name] = schedule_of(new)


def _has_canary(there: CurrentFunction, weight: float) -> bool:
    """Whether the alias sends the share `weight` of its invocations, or all of them, to the current
    version.
    """
    live, current = there.live, there.function.current_version
    if live is None or live.version == current:
        return live is not None
    return live.also == wire.AliasShare(version=current, weight=weight)


def is_as_wanted(wanted: DesiredState, found: CurrentState) -> bool:
    """Whether a server has everything that the project wants, and nothing of the project that it
    does not want. This check does not use plans, so that it can test them.
    """
    for name, entry in wanted.functions.items():
        there = found.functions.get(name)
        if there is None or there.function.state not in ("active", "paused"):
            return False
        if wanted.canary is not None and not _has_canary(there, wanted.canary):
            return False
        if any(
            getattr(entry.new, field) != getattr(there.function, field)
            for field in entry.new.__struct_fields__
            if field != "cluster_id"
        ):
            return False
        url = None if entry.url is None else url_of(entry.url, name)
        if (there.url, there.async_policy) != (url, policy_of(entry.async_policy)):
            return False
        if there.record_policy != entry.record_policy:
            return False
        schedules = {key: each for key, each in found.schedules.items() if each.function == name}
        if schedules != {key: schedule_of(each) for key, each in entry.schedules.items()}:
            return False
        if entry.runtime is not None and entry.runtime.name not in found.runtimes:
            return False
    label = f"{LABEL}{wanted.project}"
    own = {name for name, one in found.functions.items() if one.function.cluster_id == label}
    used = {one.new.runtime for one in wanted.functions.values()}
    made = {name for name in found.runtimes if name.startswith(f"{wanted.project}.")}
    return own <= wanted.functions.keys() and made <= used
