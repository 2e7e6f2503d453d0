"""The routes for async policies and record policies."""

from typing import Protocol

import msgspec

from quiltfn import wire
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import FUNCTION, READ, WRITE
from quiltfn.calls.work import Work
from quiltfn.functions.catalog import Entry
from quiltfn.model.callback import check_secret, check_url
from quiltfn.model.errors import NotFound, Unprocessable
from quiltfn.model.invocation import Status
from quiltfn.model.version import MASK
from quiltfn.model.work import AsyncPolicy, Backoff, Destination, RecordPolicy
from quiltfn.wire.masking import without_path


class PolicyServices(RouteServices, Protocol):
    """The services for the routes of policies."""

    work: Work


async def get_async_policy(context: RequestContext[PolicyServices]) -> Response:
    """Show a function's async policy."""
    entry = context.entry()
    policy = context.services.work.policies.policy_of(entry.function.id)
    return json_response(_policy(policy, show=context.sees_values))


async def set_async_policy(context: RequestContext[PolicyServices]) -> Response:
    """Set a function's async policy: attempts, waits, concurrency, and destinations of outcomes.
    Omitted fields take their defaults. It also applies to invocations that are already queued.
    """
    entry, body = context.entry(), context.body
    policy = AsyncPolicy(
        max_attempts=body.max_attempts,
        backoff=Backoff(**msgspec.structs.asdict(body.backoff_seconds)),
        retry_on=tuple(Status(one) for one in body.retry_on),
        max_age_seconds=body.max_age_seconds,
        max_queued=body.max_queued,
        max_concurrency=body.max_concurrency,
        on_success=_destination(context, entry, body.on_success, "on_success"),
        on_failure=_destination(context, entry, body.on_failure, "on_failure"),
    )
    await context.services.work.policies.set_policy(entry.function.id, policy)
    return json_response(_policy(policy, show=True))


async def delete_async_policy(context: RequestContext[PolicyServices]) -> Response:
    """Reset a function's async policy: one attempt, no destinations."""
    await context.services.work.policies.set_policy(context.entry().function.id, None)
    return Response(status=204)


async def get_record_policy(context: RequestContext[PolicyServices]) -> Response:
    """Show which inputs of a function's invocations are stored."""
    policy = context.services.work.policies.record_policy_of(context.entry().function.id)
    return json_response(wire.RecordPolicy(keep_input=policy.keep_input))


async def set_record_policy(context: RequestContext[PolicyServices]) -> Response:
    """Set which inputs are stored. It applies to later invocations."""
    policy = RecordPolicy(keep_input=context.body.keep_input)
    await context.services.work.policies.set_record_policy(context.entry().function.id, policy)
    return json_response(context.body)


def _destination(
    context: RequestContext[PolicyServices],
    entry: Entry,
    given: wire.NewDestination | None,
    name: str,
) -> Destination | None:
    """Raises `Unprocessable`, which names the field, for an invalid destination."""
    if given is None:
        return None
    example = {"function": "record-failure"}
    if (given.function is None) == (given.url is None):
        raise Unprocessable.field(name, "either a function or a url", None, example)
    if given.function is not None:
        if given.secret is not None:
            raise Unprocessable.field(f"{name}.secret", "left out: it goes with a url", None)
        try:
            target = context.services.catalog.by_name(context.tenant_id, given.function)
        except NotFound:
            expected = "the name of a function of the tenant"
            raise Unprocessable.field(f"{name}.function", expected, given.function) from None
        if target.function.id == entry.function.id:
            raise Unprocessable.field(f"{name}.function", "another function", given.function)
    else:
        check_url(given.url or "", f"{name}.url")
        check_secret(given.secret or "", f"{name}.secret")
    return Destination(function=given.function, url=given.url, secret=given.secret)


def _policy(policy: AsyncPolicy, *, show: bool) -> wire.AsyncPolicy:
    """`show`: whether the caller may see the secrets."""

    def masked(destination: Destination | None) -> wire.Destination | None:
        if destination is None:
            return None
        if show or destination.url is None:
            return wire.Destination(
                function=destination.function, url=destination.url, secret=destination.secret
            )
        return wire.Destination(url=without_path(destination.url), secret=MASK)

    return wire.AsyncPolicy(
        max_attempts=policy.max_attempts,
        backoff_seconds=wire.Backoff(**msgspec.structs.asdict(policy.backoff)),
        retry_on=[str(one) for one in policy.retry_on],
        max_age_seconds=policy.max_age_seconds,
        max_queued=policy.max_queued,
        max_concurrency=policy.max_concurrency,
        on_success=masked(policy.on_success),
        on_failure=masked(policy.on_failure),
    )


ROUTES = [
    Route("GET", FUNCTION + "/async-policy", get_async_policy, scope=READ, answer=wire.AsyncPolicy),
    Route(
        "PUT",
        FUNCTION + "/async-policy",
        set_async_policy,
        scope=WRITE,
        answer=wire.AsyncPolicy,
        body=wire.NewAsyncPolicy,
        action="async_policy.set",
    ),
    Route(
        "DELETE",
        FUNCTION + "/async-policy",
        delete_async_policy,
        scope=WRITE,
        status=204,
        action="async_policy.delete",
    ),
    Route(
        "GET", FUNCTION + "/record-policy", get_record_policy, scope=READ, answer=wire.RecordPolicy
    ),
    Route(
        "PUT",
        FUNCTION + "/record-policy",
        set_record_policy,
        scope=WRITE,
        answer=wire.RecordPolicy,
        body=wire.RecordPolicy,
        action="record_policy.set",
    ),
]
