"""Shows plans and what came of them."""

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

SIGNS = {
    Verb.CREATE: "+",
    Verb.UPDATE: "~",
    Verb.DEPLOY: ">",
    Verb.DELETE: "-",
    Verb.PRUNE: "-",
}
STYLES = {
    Verb.CREATE: show.GREEN,
    Verb.UPDATE: show.YELLOW,
    Verb.DEPLOY: show.CYAN,
    Verb.DELETE: show.RED,
    Verb.PRUNE: show.DIM,
}
PAST = {
    Verb.CREATE: "created",
    Verb.UPDATE: "updated",
    Verb.DEPLOY: "deployed",
    Verb.DELETE: "deleted",
    Verb.PRUNE: "removed",
}
PRESENT = {
    Verb.CREATE: "creating",
    Verb.UPDATE: "updating",
    Verb.DEPLOY: "deploying",
    Verb.DELETE: "deleting",
    Verb.PRUNE: "removing",
}
VALUE_MAX_CHARACTERS = 60


def plan(wanted: DesiredState, one: Plan, server: str) -> None:
    """The steps as a difference: what comes with +, what changes with ~, what goes with -."""
    show.say(f"project {wanted.project} at {server}")
    for step in one.steps:
        verb = "deploy " if step.verb is Verb.DEPLOY else ""
        show.say(f"{SIGNS[step.verb]} {verb}{_words(step)}", STYLES[step.verb])
        for change in step.changes:
            show.say(f"    {_change(change)}")
    for note in one.notes:
        show.note(note)
    if not one.steps and not one.rolled_back:
        show.say("nothing to do: the server has what the file says")


def rolled_back(one: Plan) -> None:
    for name, why in one.rolled_back.items():
        show.note(f"{name}: {why}")


def done(step: Step) -> None:
    show.note(f"{PAST[step.verb]} {_words(step)}")


def doing(step: Step) -> str:
    return f"{PRESENT[step.verb]} {_words(step)}"


def next_step(wanted: DesiredState, addresses: Mapping[str, str], is_done: bool) -> None:
    """Where the functions answer, and what to type next."""
    for name, address in sorted(addresses.items()):
        show.say(f"{name} answers at {address}")
    if not wanted.functions or not is_done:
        return
    # A server takes requests alone, and so may a function with a URL.
    name = min(
        wanted.functions, key=lambda one: (_is_server(wanted.functions[one]), one in addresses)
    )
    call = "" if _is_server(wanted.functions[name]) else f"call it with: quiltfn invoke {name}; "
    show.note(f"{call}see its calls with: quiltfn logs {name}")


def _is_server(one: DesiredFunction) -> bool:
    return one.runtime is not None and one.runtime.kind == "server"


def canaries(found: CurrentState) -> None:
    """How versions that get a part of the calls are given all of them."""
    for name, one in sorted(found.functions.items()):
        if one.live is not None and one.live.also is not None:
            new, old = one.live.also.version, one.live.version
            show.note(f"when version {new} is good: quiltfn aliases set {quote(name)} {LIVE} {new}")
            show.note(f"when it is not: quiltfn functions rollback {name} {old}")


def _words(step: Step) -> str:
    of = f" of {step.function}" if step.function not in (None, step.name) else ""
    kind = f"unused {step.noun}" if step.verb is Verb.PRUNE else f"{step.noun}"
    return f"{kind} {step.name}{of}"


def _change(one: FieldChange) -> str:
    if one.old is None:
        return f"{one.field}: {_value(one.new)}"
    if one.new is None:
        return f"{one.field}: {_value(one.old)} -> default or none"
    return f"{one.field}: {_value(one.old)} -> {_value(one.new)}"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else show.encoded(value).decode()
    is_long = len(text) > VALUE_MAX_CHARACTERS
    return f"{text[:VALUE_MAX_CHARACTERS]}…" if is_long else text
