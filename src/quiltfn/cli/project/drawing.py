"""Prints plans and their results."""

from collections.abc import Mapping
from shlex import quote
from typing import Any

from quiltfn.cli import show
from quiltfn.cli.project.plan import (
    LIVE,
    CurrentState,
    DesiredFunction,
    DesiredState,
    FieldChange,
    Plan,
    Step,
    Verb,
)

# How a step is shown: its sign and style in a plan, and its verb when done and in progress.
LOOK = {
    Verb.CREATE: ("+", show.GREEN),
    Verb.UPDATE: ("~", show.YELLOW),
    Verb.DEPLOY: (">", show.CYAN),
    Verb.DELETE: ("-", show.RED),
    Verb.PRUNE: ("-", show.DIM),
}
VERBS = {
    Verb.CREATE: ("created", "creating"),
    Verb.UPDATE: ("updated", "updating"),
    Verb.DEPLOY: ("deployed", "deploying"),
    Verb.DELETE: ("deleted", "deleting"),
    Verb.PRUNE: ("removed", "removing"),
}
VALUE_MAX_CHARACTERS = 60


def plan(wanted: DesiredState, plan: Plan, server: str) -> None:
    """Print the steps as a diff: + for additions, ~ for changes, - for removals."""
    show.say(f"project {wanted.project} at {server}")
    for step in plan.steps:
        verb = "deploy " if step.verb is Verb.DEPLOY else ""
        sign, style = LOOK[step.verb]
        show.say(f"{sign} {verb}{_words(step)}", style)
        for change in step.changes:
            show.say(f"    {_change(change)}")
    for note in plan.notes:
        show.note(note)
    if not plan.steps and not plan.rolled_back:
        show.say("no changes: the server matches the file")


def rolled_back(plan: Plan) -> None:
    for name, why in plan.rolled_back.items():
        show.note(f"{name}: {why}")


def done(step: Step) -> None:
    show.note(f"{VERBS[step.verb][0]} {_words(step)}")


def doing(step: Step) -> str:
    return f"{VERBS[step.verb][1]} {_words(step)}"


def next_step(wanted: DesiredState, addresses: Mapping[str, str], is_done: bool) -> None:
    """Print the functions' addresses, and a command to continue with."""
    for name, address in sorted(addresses.items()):
        show.say(f"{name}: {address}")
    if not wanted.functions or not is_done:
        return
    # A web server only handles HTTP requests, and so may a function with a URL.
    name = min(
        wanted.functions, key=lambda name: (_is_server(wanted.functions[name]), name in addresses)
    )
    call = "" if _is_server(wanted.functions[name]) else f"invoke it with: quiltfn invoke {name}; "
    show.note(f"{call}see its output with: quiltfn logs {name}")


def _is_server(function: DesiredFunction) -> bool:
    return function.runtime is not None and function.runtime.kind == "server"


def canaries(found: CurrentState) -> None:
    """Print how to send all traffic to the canaries."""
    for name, function in sorted(found.functions.items()):
        if function.live is not None and function.live.also is not None:
            new, old = function.live.also.version, function.live.version
            show.note(f"if version {new} works: quiltfn aliases set {quote(name)} {LIVE} {new}")
            show.note(f"if not: quiltfn functions rollback {name} {old}")


def _words(step: Step) -> str:
    of = f" of {step.function}" if step.function not in (None, step.name) else ""
    kind = f"unused {step.noun}" if step.verb is Verb.PRUNE else f"{step.noun}"
    return f"{kind} {step.name}{of}"


def _change(change: FieldChange) -> str:
    if change.old is None:
        return f"{change.field}: {_value(change.new)}"
    if change.new is None:
        return f"{change.field}: {_value(change.old)} -> default or none"
    return f"{change.field}: {_value(change.old)} -> {_value(change.new)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else show.encoded(value).decode()
    is_long = len(text) > VALUE_MAX_CHARACTERS
    return f"{text[:VALUE_MAX_CHARACTERS]}…" if is_long else text
