"""Asynchronous invocations: `quiltfn wait`, `cancel`, `replay`, `queue` and `dead-letters …`, and
the subcommands of `quiltfn functions` for them.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from quiltfn.cli import payload, scope, show, tables
from quiltfn.cli.invoke import PayloadOptions, exit_code, show_ended, show_queued
from quiltfn.cli.options import FieldsOf, InvocationId, Paging, pairs_of, secret_in
from quiltfn.cli.parsing import BadParameter, Exit, Group, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.session import Connection, NameOrId, Reveal, Session
from quiltfn.sdk import Invocation, InvocationInput, RedriveResult
from quiltfn.wire import AsyncPolicy, Backoff, NewAsyncPolicy, NewDestination, RecordPolicy
from quiltfn.wire.fields import fields_of

Ids = Annotated[
    list[str] | None, Option(("--id",), metavar="ID", help="Id of one dead letter; repeatable.")
]
Timeout = Annotated[
    int | None,
    Option(("--timeout",), metavar="SECONDS", least=1, help="Maximum wait."),
]
STILL_RUNS = 1
OPEN = "open"  # recorded as the caller by a server without keys
WRITTEN_OTHERWISE = ["backoff_seconds", "retry_on", "on_success", "on_failure"]

dead_letters = Group(name="dead-letters", help="List, redrive and drop dead letters.")


def wait(
    name_or_id: NameOrId,
    invocation_id: InvocationId,
    timeout: Timeout = None,
    *,
    connection: Connection,
) -> None:
    """Wait for an invocation to end and print its output. If it failed, so does this command."""
    with connection.session(name_or_id) as at:
        ended = wait_for(at, name_or_id, invocation_id, timeout)
        at.show(ended, lambda record: show_ended(at.client, record))
    raise Exit(exit_code(ended))


def wait_for(at: Session, function: str, invocation_id: str, timeout: int | None) -> Invocation:
    """The final record. Exits if the invocation doesn't end in time; it continues, also after
    Ctrl-C.
    """
    try:
        return at.client.functions.wait(function, invocation_id, timeout_seconds=timeout)
    except TimeoutError as error:
        show.complain(str(error), f"quiltfn wait {function} {invocation_id}")
        raise Exit(STILL_RUNS) from None


def cancel(name_or_id: NameOrId, invocation_id: InvocationId, connection: Connection) -> None:
    """Cancel a waiting or running invocation."""
    with connection.session(name_or_id) as at:
        at.show(
            at.client.functions.cancel(name_or_id, invocation_id),
            lambda record: show.say(f"{record.invocation_id} is {record.status}"),
        )


def replay(
    name_or_id: NameOrId,
    invocation_id: InvocationId,
    given: PayloadOptions,
    *,
    version: Annotated[
        int | None, Option(least=1, help="Version to run (default: that of NAME).")
    ] = None,
    is_async: Annotated[
        bool, Option(("--async",), help="Queue the replay and print its id.")
    ] = False,
    connection: Connection,
) -> None:
    """Replay the stored input of an invocation and print the output. --payload and --payload-file
    replace its payload.
    """
    text = payload.of_options(given.payload, given.payload_file)
    with connection.session(name_or_id) as at:
        record = at.client.functions.replay(
            name_or_id,
            invocation_id,
            version=version,
            mode="async" if is_async else "sync",
            payload=msgspec.UNSET if text is None else text,
        )
        if is_async:
            at.show(record, lambda record: show_queued(name_or_id, record))
            return
        at.show(record, lambda record: show_ended(at.client, record))
    raise Exit(exit_code(record))


def queue(
    name_or_id: NameOrAll = None,
    *,
    paging: Paging,
    all_functions: AllFunctions = False,
    connection: Connection,
) -> None:
    """Count asynchronous invocations: queued, delayed, running, and dead-lettered. Without a name:
    of all functions that have some.
    """
    label = scope.label(name_or_id, all_functions=all_functions)
    if name_or_id is not None and paging != Paging():
        raise BadParameter("--limit and --cursor can't be combined with a name")
    with connection.session(name_or_id) as at:
        functions = at.client.functions
        if name_or_id is not None:
            at.show(functions.get_queue(name_or_id), tables.queue)
            return
        found = functions.list_queues(cluster_id=label, **paging.fields())
        at.show(found.first(), tables.queues)


@dead_letters.command("list")
def list_dead_letters(
    name_or_id: NameOrAll = None,
    *,
    paging: Paging,
    all_functions: AllFunctions = False,
    connection: Connection,
) -> None:
    """List dead letters, newest first."""
    label = scope.label(name_or_id, all_functions=all_functions)
    with connection.session(name_or_id) as at:
        found = at.client.functions.list_dead_letters(
            name_or_id, cluster_id=label, **paging.fields()
        )
        at.show(found.first(), tables.dead_letters if name_or_id else tables.all_dead_letters)


@dead_letters.command()
def redrive(
    name_or_id: NameOrId,
    ids: Ids = None,
    all_of_them: Annotated[bool, Option(("--all",), help="All dead letters.")] = False,
    *,
    connection: Connection,
) -> None:
    """Redrive dead letters: queue each under a new id, and print the ids."""
    if bool(ids) == all_of_them:
        raise BadParameter(f"give --id (repeatable) or --all{', not both' if ids else ''}")

    def report(done: RedriveResult) -> None:
        for invocation_id in done.invocation_ids:
            show.say(invocation_id)
        show.note(f"queued {show.amount(done.redriven, 'invocation')} again, each under a new id")
        if len(done.invocation_ids) == 1:
            show.note(
                f"wait for the first with: quiltfn wait {name_or_id} {done.invocation_ids[0]}"
            )
        if done.remaining:
            show.note(f"{show.amount(done.remaining, 'dead letter')} left")

    with connection.session(name_or_id) as at:
        done = at.client.functions.redrive_dead_letters(name_or_id, ids)
        at.show(done, report)
    unknown = len(set(ids or [])) - done.redriven
    if unknown > 0:
        show.complain(
            f"{show.amount(unknown, 'id is', 'ids are')} not of a dead letter of this function",
            f"quiltfn dead-letters list {name_or_id}",
        )
        raise Exit(1)


@dead_letters.command()
def drop(name_or_id: NameOrId, invocation_id: InvocationId, connection: Connection) -> None:
    """Drop a dead letter; its record stays."""
    with connection.session(name_or_id) as at:
        at.client.functions.drop_dead_letter(name_or_id, invocation_id)
        at.say(f"dropped {invocation_id}", dropped=True, invocation_id=invocation_id)


# --- of `quiltfn functions` --------------------------------------------------------------------


def attempts(name_or_id: NameOrId, invocation_id: InvocationId, connection: Connection) -> None:
    """List the attempts of an invocation."""
    with connection.session(name_or_id) as at:
        at.show(at.client.functions.list_attempts(name_or_id, invocation_id), tables.attempts)


def input_of(
    name_or_id: NameOrId,
    invocation_id: InvocationId,
    reveal: Reveal = False,
    *,
    connection: Connection,
) -> None:
    """Print the payload of an invocation; -o json prints its whole input."""

    def report(given: InvocationInput) -> None:
        show.pass_through(given.payload or "", sys.stdout)
        who = "a caller without a key" if given.caller == OPEN else given.caller
        show.note(f"source {given.source}, from {who}")

    with connection.session(name_or_id, reveal=reveal) as at:
        at.show(at.client.functions.get_invocation_input(name_or_id, invocation_id), report)


class PolicyOptions(Struct, frozen=True, kw_only=True):
    """Fields of a policy that a command line writes differently from the API."""

    backoff: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=NUMBER",
            help="Wait between attempts: first, factor, most, jitter; repeatable.",
        ),
    ] = None
    retry_on: Annotated[
        list[str] | None,
        Option(
            metavar="STATUS",
            help="Retry only after this status, such as failed or failed,oom; repeatable.",
        ),
    ] = None
    on_success: Annotated[
        str | None, Option(metavar="FUNCTION_OR_URL", help="Success destination (function or URL).")
    ] = None
    on_failure: Annotated[
        str | None, Option(metavar="FUNCTION_OR_URL", help="Failure destination (function or URL).")
    ] = None
    secret_file: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="File with the secret that signs requests to a URL: whsec_ and base64.",
        ),
    ] = None

    unset_on_success: Annotated[bool, Option(help="Remove the success destination.")] = False
    unset_on_failure: Annotated[bool, Option(help="Remove the failure destination.")] = False
    unset_max_concurrency: Annotated[bool, Option(help="Remove the limit on concurrency.")] = False

    def fields(self) -> dict[str, Any]:
        """The fields that were given, by their names in the API; of the backoff, the keys that were
        given. Raises `BadParameter`.
        """
        found: dict[str, Any] = {}
        has_url = _is_url(self.on_success) or _is_url(self.on_failure)
        if self.secret_file is not None and not has_url:
            raise BadParameter("--secret-file requires a URL for --on-success or --on-failure")
        for end, destination, is_unset in (
            ("success", self.on_success, self.unset_on_success),
            ("failure", self.on_failure, self.unset_on_failure),
        ):
            if destination is not None and is_unset:
                raise BadParameter(f"give --on-{end} or --unset-on-{end}, not both")
            if destination is not None:
                found[f"on_{end}"] = _destination(destination, self.secret_file)
            elif is_unset:
                found[f"on_{end}"] = None
        if self.unset_max_concurrency:
            found["max_concurrency"] = None
        if self.backoff:
            found["backoff_seconds"] = _backoff(self.backoff)
        if self.retry_on:
            found["retry_on"] = [end for word in self.retry_on for end in word.split(",")]
        return found


def async_policy(
    name_or_id: NameOrId,
    fields: Annotated[dict[str, Any], FieldsOf(NewAsyncPolicy, WRITTEN_OTHERWISE, keeps=True)],
    options: PolicyOptions,
    reset: Annotated[bool, Option(help="Reset to the default policy.")] = False,
    *,
    reveal: Reveal = False,
    connection: Connection,
) -> None:
    """Show or change a function's async policy.

    Options that are not given keep their values.
    """
    given = fields | options.fields()
    if reset and given:
        raise BadParameter("--reset can't be combined with other options")
    with connection.session(name_or_id, reveal=reveal) as at:
        functions = at.client.functions
        if reset:
            functions.delete_async_policy(name_or_id)
            at.say("the function has the default policy", reset=True)
        elif given:
            changed = _changed(functions.get_async_policy(name_or_id), given)
            at.show(functions.set_async_policy(name_or_id, **changed), tables.async_policy)
        else:
            at.show(functions.get_async_policy(name_or_id), tables.async_policy)


def record_policy(
    name_or_id: NameOrId,
    fields: Annotated[dict[str, Any], FieldsOf(RecordPolicy, keeps=True)],
    connection: Connection,
) -> None:
    """Show or set which inputs of a function are stored."""

    def report(policy: RecordPolicy) -> None:
        show.pairs(("keep input", policy.keep_input))

    with connection.session(name_or_id) as at:
        functions = at.client.functions
        if fields:
            at.show(functions.set_record_policy(name_or_id, **fields), report)
        else:
            at.show(functions.get_record_policy(name_or_id), report)


def _changed(now: AsyncPolicy, given: dict[str, Any]) -> dict[str, Any]:
    """All fields of the policy, with the new values of those that are given."""
    fields = {name: getattr(now, name) for name in fields_of(NewAsyncPolicy)}
    for name in ("on_success", "on_failure"):
        if (to := fields[name]) is not None:
            fields[name] = NewDestination(function=to.function, url=to.url, secret=to.secret)
    wait = msgspec.structs.replace(now.backoff_seconds, **given.get("backoff_seconds", {}))
    return fields | given | {"backoff_seconds": wait}


def _backoff(words: list[str]) -> dict[str, float]:
    known = ", ".join(fields_of(Backoff))
    given: dict[str, float] = {}
    for key, value in pairs_of("--backoff", words).items():
        try:
            given[key] = float(value)
        except ValueError:
            raise BadParameter(f"--backoff {key} must be a number, not {value!r}") from None
    if not given.keys() <= fields_of(Backoff).keys():
        raise BadParameter(f"--backoff takes {known}")
    return given


def _is_url(word: str | None) -> bool:
    return word is not None and "://" in word


def _destination(word: str, secret_file: Path | None) -> NewDestination:
    if not _is_url(word):
        return NewDestination(function=word)
    if secret_file is None:
        raise BadParameter(f"requests to {word} are signed: give --secret-file")
    return NewDestination(url=word, secret=secret_in(secret_file))
