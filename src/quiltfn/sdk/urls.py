"""URLs of functions, as part of `client.functions`."""

from quiltfn.sdk.methods import Method, with_name_and_fields_of
from quiltfn.sdk.named_function import on
from quiltfn.sdk.request import Flow, delete, get, put, query
from quiltfn.wire import FunctionUrl, NewFunctionUrl


def get_url(function: str, *, reveal: bool = False) -> Flow[FunctionUrl]:
    """The settings of a function's URL. Raises NotFoundError if it has no URL.

    `reveal`: include the webhook secret, which needs scope write; otherwise the secret is ***.
    """
    wanted = f"/url{query(reveal=reveal or None)}"
    return on(function, wanted, lambda path: get(path, FunctionUrl))


@with_name_and_fields_of(NewFunctionUrl)
def set_url(function: str, url: NewFunctionUrl) -> Flow[FunctionUrl]:
    """Create or replace a function's URL. Omitted fields take their defaults."""
    return on(function, "/url", lambda path: put(path, FunctionUrl, url))


def delete_url(function: str) -> Flow[None]:
    """Delete a function's URL."""
    return on(function, "/url", delete)


class UrlMethods:
    """The methods of both clients for URLs of functions."""

    get_url = Method(get_url)
    set_url = Method(set_url)
    delete_url = Method(delete_url)
