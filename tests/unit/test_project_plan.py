"""Plans: from any state of the server, one plan leads to the project's state, and the next is
empty.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from promises import promise
from quiltfn.cli.project import drawing
from quiltfn.cli.project.plan import (
    LABEL,
    LIVE,
    CurrentFunction,
    CurrentState,
    DesiredFunction,
    DesiredState,
    FieldChange,
    Noun,
    Step,
    Verb,
    plan_for,
)
from quiltfn.wire import (
    Alias,
    AliasShare,
    NewAsyncPolicy,
    NewDestination,
    NewFunction,
    NewFunctionUrl,
    NewRuntime,
    NewSchedule,
    RecordPolicy,
    WebhookRule,
)
from unit.project_simulation import (
    Simulation,
    found_function,
    function_of,
    is_as_wanted,
    policy_of,
    runtime_of,
    schedule_of,
    url_of,
)

pytestmark = promise("W24", "R41")

PROJECT = "shop"
NAMES, SCHEDULES = ("a", "b", "c"), ("daily", "hourly", "nightly")
KEYS = ("1", "2", "3")
texts = st.sampled_from(["x", "y"])
environments = st.dictionaries(st.sampled_from(["A", "B"]), texts)
urls = st.builds(
    NewFunctionUrl,
    auth=st.sampled_from(["key", "none"]),
    methods=st.none() | st.just(["GET"]),
    stream=st.booleans(),
) | st.builds(
    NewFunctionUrl,
    auth=st.just("webhook"),
    webhook=st.builds(WebhookRule, scheme=st.just("github"), secret=texts),
)
policies = st.builds(
    NewAsyncPolicy,
    max_attempts=st.integers(1, 2),
    on_failure=st.none() | st.builds(NewDestination, function=texts),
)
records = st.builds(RecordPolicy, keep_input=st.sampled_from(["async", "all"]))


def runtime(key: str) -> NewRuntime:
    return NewRuntime(name=f"{PROJECT}.python-{key}", kind="python")


@st.composite
def functions(draw: st.DrawFn, name: str) -> NewFunction:
    return NewFunction(
        name=name,
        handler=draw(texts),
        runtime=draw(st.sampled_from(["shell", *(runtime(one).name for one in KEYS)])),
        memory_limit_mb=draw(st.sampled_from([256, 512])),
        environment=draw(environments),
        description=draw(st.none() | texts),
    )


@st.composite
def schedules(draw: st.DrawFn, name: str, function: str) -> NewSchedule:
    return NewSchedule(
        name=name,
        function=function,
        cron=draw(st.sampled_from(["0 3 * * *", "0 4 * * *"])),
        enabled=draw(st.booleans()),
    )


@st.composite
def wanted_projects(draw: st.DrawFn) -> DesiredState:
    names = draw(st.sets(st.sampled_from(NAMES)))
    owners = {one: draw(st.sampled_from([*sorted(names), None])) for one in SCHEDULES}
    found = {}
    for name in sorted(names):
        new = draw(functions(name))
        made = [runtime(one) for one in KEYS if runtime(one).name == new.runtime]
        own = [one for one, owner in owners.items() if owner == name]
        found[name] = DesiredFunction(
            new=new,
            runtime=made[0] if made else None,
            url=draw(st.none() | urls),
            async_policy=draw(policies),
            record_policy=draw(records),
            schedules={one: draw(schedules(one, name)) for one in own},
        )
    canary = draw(st.none() | st.sampled_from([0.1, 0.5]))
    return DesiredState(project=PROJECT, functions=found, canary=canary)


@st.composite
def servers(draw: st.DrawFn) -> CurrentState:
    """A server with functions of the project, some of them incomplete, and with other functions."""
    names = draw(st.sets(st.sampled_from(NAMES)))
    found: dict[str, CurrentFunction] = {}
    for name in sorted(names):
        state = draw(st.sampled_from(["pending", "deploying", "active", "paused", "error"]))
        new = draw(functions(name))
        url = draw(st.none() | urls)
        current = draw(st.integers(1, 3))
        function = function_of(
            new, cluster_id=f"{LABEL}{PROJECT}", state=state, current_version=current
        )
        shares = st.builds(AliasShare, version=st.just(current), weight=st.sampled_from([0.1, 0.9]))
        older = st.builds(
            Alias,
            name=st.just(LIVE),
            version=st.integers(1, current),
            also=st.none() | shares,
            default=st.booleans(),
            updated_at=st.just(1),
        )
        found[name] = CurrentFunction(
            function=function,
            live=draw(st.none() | older),
            etag='"1"',
            url=None if url is None else url_of(url, name),
            async_policy=policy_of(draw(policies)),
            record_policy=draw(records),
        )
    there = {}
    for schedule_name in draw(st.sets(st.sampled_from(SCHEDULES))) if names else ():
        there[schedule_name] = schedule_of(
            draw(schedules(schedule_name, draw(st.sampled_from(sorted(names)))))
        )
    made = {
        runtime(one).name: runtime_of(runtime(one)) for one in draw(st.sets(st.sampled_from(KEYS)))
    }
    other = found_function(function_of(NewFunction(name="other", handler="x"), state="active"))
    theirs = NewSchedule(name="theirs", function="other", every_seconds=60)
    return CurrentState(
        functions=found | {"other": other},
        schedules=there | {"theirs": schedule_of(theirs)},
        runtimes=made | {"etl": runtime_of(NewRuntime(name="etl", kind="python"))},
    )


@given(wanted_projects(), servers())
def test_a_plan_done_leaves_nothing_to_do(wanted: DesiredState, found: CurrentState) -> None:
    server = Simulation(wanted, found)
    server.perform(plan_for(wanted, found).steps)
    assert is_as_wanted(wanted, server.found)
    assert plan_for(wanted, server.found).steps == ()
    assert server.functions["other"] == found.functions["other"]
    assert server.schedules["theirs"] == found.schedules["theirs"]
    assert "etl" in server.runtimes


@given(wanted_projects(), servers(), st.integers(0, 40))
def test_an_interrupted_plan_goes_on(wanted: DesiredState, found: CurrentState, done: int) -> None:
    """After a plan was interrupted, as by `kill -9`, the next plan must complete it."""
    server = Simulation(wanted, found)
    server.perform(plan_for(wanted, found).steps[:done])
    server.perform(plan_for(wanted, server.found).steps)
    assert is_as_wanted(wanted, server.found)


@given(servers())
def test_destroying_leaves_what_is_of_others(found: CurrentState) -> None:
    nothing = DesiredState(project=PROJECT)
    server = Simulation(nothing, found)
    server.perform(plan_for(nothing, found).steps)
    assert list(server.functions) == ["other"]
    assert list(server.schedules) == ["theirs"]
    assert list(server.runtimes) == ["etl"]


def wanted(*news: NewFunction, **more: Any) -> DesiredState:
    made = {one.name: DesiredFunction(new=one, **more) for one in news}
    return DesiredState(project=PROJECT, functions=made)


def had(new: NewFunction, **more: Any) -> CurrentState:
    fields = {"cluster_id": f"{LABEL}{PROJECT}", "state": "active"} | more
    return CurrentState(functions={new.name: found_function(function_of(new, **fields))})


OLD = NewFunction(
    name="a", handler="x", environment={"KEY": "old", "GONE": "1", "MODE": "fast", "PIN": "12"}
)
NEW = NewFunction(
    name="a", handler="y", environment={"KEY": "new", "MORE": "1", "MODE": "slow", "PIN": "34"}
)


@promise("A80")
def test_a_change_says_old_and_new_and_no_value_of_a_secret() -> None:
    (step,) = plan_for(wanted(NEW, secrets=frozenset({"PIN"})), had(OLD)).steps
    assert step == Step(
        verb=Verb.UPDATE,
        noun=Noun.FUNCTION,
        name="a",
        function="a",
        changes=(
            FieldChange("handler", "x", "y"),
            FieldChange("environment.GONE", "***", None),
            FieldChange("environment.KEY", "***", "***"),
            FieldChange("environment.MODE", "fast", "slow"),
            FieldChange("environment.MORE", None, "1"),
            FieldChange("environment.PIN", "***", "***"),
        ),
    )


@promise("R44")
def test_no_secret_is_shown() -> None:
    rule = WebhookRule(scheme="github", secret="hush-hush")
    url = NewFunctionUrl(auth="webhook", webhook=rule)
    where = NewDestination(url="https://example.com", secret="hush-hush")
    more = {"url": url, "async_policy": NewAsyncPolicy(on_failure=where)}
    assert "hush-hush" not in repr(plan_for(wanted(OLD, **more), had(OLD)))


@promise("R43")
@pytest.mark.parametrize(
    ("label", "said"), [(None, "was not created by a project"), (f"{LABEL}other", "has the label")]
)
def test_a_function_of_others_is_left_alone(label: str | None, said: str) -> None:
    plan = plan_for(wanted(NEW), had(OLD, cluster_id=label))
    assert not plan.steps
    assert said in plan.refused[0]


def test_a_named_runtime_that_the_server_has_not_is_refused() -> None:
    plan = plan_for(wanted(NEW, replace(OLD, name="b", runtime="nosuch")), had(OLD))
    assert not plan.steps
    assert "b: runtime nosuch doesn't exist on the server" in plan.refused[0]


@pytest.mark.parametrize(
    ("addresses", "kinds", "said"),
    [
        ({}, {}, "invoke it with: quiltfn invoke a; see its output with: quiltfn logs a"),
        ({"a": "http://"}, {}, "invoke it with: quiltfn invoke b; see its output with"),
        ({"a": "http://", "b": "http://"}, {}, "invoke it with: quiltfn invoke a;"),
        ({"a": "http://", "b": "http://"}, {"a": "server"}, "invoke it with: quiltfn invoke b;"),
        ({}, {"a": "server", "b": "server"}, "see its output with: quiltfn logs a"),
    ],
)
def test_a_deploy_names_a_function_that_an_event_can_be_sent_to(
    addresses: dict[str, str], kinds: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = {
        name: DesiredFunction(
            new=replace(NEW, name=name),
            runtime=NewRuntime(name=f"r-{name}", kind=kinds[name]) if name in kinds else None,
        )
        for name in ("a", "b")
    }
    desired = DesiredState(project=PROJECT, functions=functions)
    drawing.next_step(desired, addresses, is_done=True)
    assert capsys.readouterr().err.startswith(said)


def test_an_adopted_function_is_changed_and_never_deleted() -> None:
    there = had(OLD, cluster_id=None)
    plan = plan_for(wanted(NEW, adopted=True), there)
    assert [one.verb for one in plan.steps] == [Verb.UPDATE]
    assert plan_for(wanted(), there).steps == ()


def test_a_schedule_of_others_is_left_alone() -> None:
    theirs = schedule_of(NewSchedule(name="daily", function="other", cron="0 3 * * *"))
    ours = NewSchedule(name="daily", function="a", cron="0 4 * * *")
    found = CurrentState(schedules={"daily": theirs})
    plan = plan_for(wanted(NEW, schedules={"daily": ours}), found)
    assert plan.refused == ("there already is a schedule daily, which runs other",)


@pytest.mark.parametrize(
    ("found", "note"),
    [
        ({"state": "paused"}, "stays paused"),
        ({"runtime_outdated": True}, "quiltfn functions update a --runtime shell"),
    ],
)
def test_what_a_plan_leaves_as_it_is_is_told(found: dict[str, Any], note: str) -> None:
    plan = plan_for(wanted(OLD), had(OLD, **found))
    assert not plan.steps
    assert note in plan.notes[0]


ROLLED_BACK = {"version": 1, "rolled_back": "version 2: 3 of 3 attempts failed"}


@promise("W26")
@pytest.mark.parametrize(
    ("alias", "new", "canary", "rolled_back", "noted"),
    [
        (ROLLED_BACK, OLD, None, "version 2 gets no invocations: they run on version 1", None),
        (ROLLED_BACK, NEW, None, None, None),  # the update moves the alias
        (ROLLED_BACK, OLD, 0.1, None, None),  # the canary is tried again
        ({"version": 2, "rolled_back": "version 3: slow"}, OLD, None, None, None),
        ({"version": 1}, OLD, None, None, "to send all to version 2: quiltfn aliases set a live 2"),
        (ROLLED_BACK | {"also": 2}, OLD, None, None, "and version 2 for 50%"),
        (None, OLD, None, None, None),
    ],
)
def test_what_calls_run_on_is_told_where_it_is_not_the_current_version(
    alias: dict[str, Any] | None,
    new: NewFunction,
    canary: float | None,
    rolled_back: str | None,
    noted: str | None,
) -> None:
    found = had(OLD, current_version=2)
    if alias is not None:
        also = AliasShare(version=2, weight=0.5) if "also" in alias else None
        live = Alias(**{"name": LIVE, "updated_at": 1, "default": True, **alias, "also": also})
        function = replace(found.functions["a"].function, default_alias=live)
        there = replace(found.functions["a"], function=function, live=live)
        found = replace(found, functions={"a": there})
    plan = plan_for(replace(wanted(new), canary=canary), found)
    assert plan.rolled_back.keys() == ({"a"} if rolled_back else set())
    assert (rolled_back or "") in plan.rolled_back.get("a", "")
    assert len(plan.notes) == (1 if noted else 0)
    assert (noted or "") in "".join(plan.notes)


def test_a_shared_runtime_is_made_once_and_again_if_it_was_removed() -> None:
    new_runtime = runtime("1")
    news = [NewFunction(name=name, handler="x", runtime=new_runtime.name) for name in ("a", "b")]
    steps = plan_for(wanted(*news, runtime=new_runtime), CurrentState()).steps
    assert [step.name for step in steps if step.noun is Noun.RUNTIME] == [new_runtime.name]
    assert steps[0].noun is Noun.RUNTIME
    new_runtime = runtime("1")
    new = NewFunction(name="a", handler="x", runtime=new_runtime.name)
    (step,) = plan_for(wanted(new, runtime=new_runtime), had(new)).steps
    assert (step.verb, step.noun) == (Verb.CREATE, Noun.RUNTIME)


def test_nothing_is_deleted_before_everything_else_is_there() -> None:
    found = had(NewFunction(name="old", handler="x"))
    steps = plan_for(wanted(NEW), found).steps
    assert [one.verb for one in steps] == [Verb.CREATE, Verb.DEPLOY, Verb.DELETE]
    # Without a canary, a plan leaves aliases alone.
    steps = plan_for(wanted(NEW), had(OLD)).steps
    assert all(one.noun is not Noun.ALIAS for one in steps)


def test_settings_of_a_runtime_are_told_field_by_field() -> None:
    new_runtime, other = (
        runtime("1"),
        NewRuntime(name="shop.python-2", kind="python", network="egress"),
    )
    old = NewFunction(name="a", handler="x", runtime=new_runtime.name)
    new = NewFunction(name="a", handler="x", runtime=other.name)
    found = had(old)
    found.runtimes[new_runtime.name] = runtime_of(new_runtime)  # type: ignore[index]
    update = plan_for(wanted(new, runtime=other), found).steps[1]
    assert FieldChange("network", "none", "egress") in update.changes


def test_what_calls_run_on_is_kept_before_an_update_and_split_after_it() -> None:
    plan = plan_for(replace(wanted(NEW), canary=0.1), had(OLD))
    assert [(one.verb, one.noun) for one in plan.steps] == [
        (Verb.CREATE, Noun.ALIAS),
        (Verb.UPDATE, Noun.FUNCTION),
        (Verb.UPDATE, Noun.ALIAS),
    ]
    assert plan.steps[2].changes == (
        FieldChange("also", None, "the new version, 10% of the invocations"),
    )


def test_who_splits_calls_learns_how_a_new_version_gets(capsys: pytest.CaptureFixture[str]) -> None:
    found = had(OLD)
    there = found.functions["a"]
    alone = Alias(name=LIVE, version=4, also=None, updated_at=1)
    split = replace(alone, also=AliasShare(version=5, weight=0.1))
    for live in (None, alone, split):
        drawing.canaries(replace(found, functions={"a": replace(there, live=live)}))
    assert capsys.readouterr().err == (
        "if version 5 works: quiltfn aliases set a live 5\nif not: quiltfn functions rollback a 4\n"
    )


@pytest.mark.parametrize(
    ("new", "version", "default", "fields"),
    [
        (NEW, 4, False, ["default", "also"]),
        (NEW, 2, True, ["also"]),
        (OLD, 4, False, ["default"]),
        # Such an alias is from a release in which only calls by the alias were split.
        (OLD, 2, False, ["also"]),
        (OLD, 4, True, []),
    ],
)
def test_an_alias_that_is_there_becomes_the_default(
    new: NewFunction, version: int, default: bool, fields: list[str]
) -> None:
    found = had(OLD)
    function = replace(found.functions["a"].function, current_version=4)
    live = Alias(name=LIVE, version=version, also=None, default=default, updated_at=1)
    there = replace(found.functions["a"], function=function, live=live)
    plan = plan_for(replace(wanted(new), canary=0.1), replace(found, functions={"a": there}))
    steps = [one for one in plan.steps if one.noun is Noun.ALIAS]
    assert [one.changes[0].field for one in steps] == fields
    assert [one.verb for one in steps] == [Verb.UPDATE] * len(fields)
