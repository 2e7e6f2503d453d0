"""The routes for function URLs, where functions are invoked over plain HTTP."""

from typing import Any, Protocol

import msgspec

from quiltfn import wire
from quiltfn.api.http import parse
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import FUNCTION, READ, WRITE
from quiltfn.functions.catalog import Entry
from quiltfn.functions.urls import Urls
from quiltfn.model.errors import GIVE_URL, NotFound, Unprocessable
from quiltfn.model.url import Auth, Cors, FunctionUrl, Scheme, Webhook, path_of
from quiltfn.model.version import MASK


class UrlServices(RouteServices, Protocol):
    """The services for the routes of URLs."""

    urls: Urls


async def get_function_url(context: RequestContext[UrlServices]) -> Response:
    """Show a function's URL. The webhook secret is shown as *** unless reveal is true, which needs
    scope write.
    """
    is_revealed = parse.boolean(context.query.get("reveal", "false"), "reveal")
    if is_revealed:
        context.must_see_values()
    entry = context.entry()
    url = context.services.urls.of(entry.function.id)
    if url is None:
        hint = f"{GIVE_URL.text} gives it one, as does quiltfn url set"
        raise NotFound("the function has no URL", hint=hint, see=GIVE_URL)
    return _shown(context, entry, url, is_revealed=is_revealed)


async def set_function_url(context: RequestContext[UrlServices]) -> Response:
    """Create or replace a function's URL, /fn/<tenant>/<name>. A function without one can't be
    reached over plain HTTP. It applies to later requests.
    """
    entry, body = context.entry(), context.body
    cors = body.cors
    url = FunctionUrl(
        auth=Auth(body.auth),
        webhook=_webhook(body.webhook, context.services.urls.of(entry.function.id)),
        cors=None if cors is None else Cors(**_fields(cors)),
        methods=body.methods,
        stream=body.stream,
    )
    url.validate()
    await context.services.urls.set(entry, url)
    return _shown(context, entry, url)


async def delete_function_url(context: RequestContext[UrlServices]) -> Response:
    """Delete a function's URL. Running invocations continue."""
    await context.services.urls.set(context.entry(), None)
    return Response(status=204)


def _webhook(given: wire.WebhookRule | None, before: FunctionUrl | None) -> Webhook | None:
    """The webhook rule to store. Without a new secret it keeps the previous one; raises
    `Unprocessable` if there is none.
    """
    if given is None:
        return None
    kept = None if before is None or before.webhook is None else before.webhook.secret
    secret = kept if given.secret is None else given.secret
    if secret is None:
        expected = "given: the URL has no secret yet"
        raise Unprocessable.field("webhook.secret", expected, None, "a-long-random-text")
    return Webhook(scheme=Scheme(given.scheme), secret=secret)


def _shown(
    context: RequestContext[UrlServices],
    entry: Entry,
    url: FunctionUrl,
    *,
    is_revealed: bool = False,
) -> Response:
    function, webhook, cors = entry.function, url.webhook, url.cors
    refusals = context.services.urls.refusals(function.id)
    shown = wire.FunctionUrl(
        auth=url.auth,
        webhook=None
        if webhook is None
        else wire.WebhookRule(
            scheme=webhook.scheme, secret=webhook.secret if is_revealed else MASK
        ),
        cors=None if cors is None else wire.CorsRule(**_fields(cors)),
        methods=None if url.methods is None else list(url.methods),
        stream=url.stream,
        path=path_of(function.tenant_id, function.name),
        host=context.services.urls.host or None,
        refused={reason.value: count for reason, count in refusals.counts.items()},
        last_refused_at=refusals.last_at,
    )
    return json_response(shown)


def _fields(shape: msgspec.Struct) -> dict[str, Any]:
    """The fields, with the model's sequences as lists."""
    fields = msgspec.structs.asdict(shape)
    return {
        name: list(value) if isinstance(value, list | tuple) else value
        for name, value in fields.items()
    }


# --- the routes ---

REVEAL = Parameter(
    name="reveal",
    about="true: include the webhook secret; needs scope write",
    schema={"type": "boolean"},
)
ROUTES = [
    Route(
        "GET",
        FUNCTION + "/url",
        get_function_url,
        scope=READ,
        answer=wire.FunctionUrl,
        parameters=(REVEAL,),
    ),
    Route(
        "PUT",
        FUNCTION + "/url",
        set_function_url,
        scope=WRITE,
        answer=wire.FunctionUrl,
        body=wire.NewFunctionUrl,
        action="url.set",
    ),
    Route(
        "DELETE",
        FUNCTION + "/url",
        delete_function_url,
        scope=WRITE,
        status=204,
        action="url.delete",
    ),
]
