"""URLs of functions, as part of `client.functions`."""

from quiltfn.sdk.methods import Method, with_name_and_fields_of
from quiltfn.sdk.named_function import on
from quiltfn.sdk.request import Flow, delete, get, put, query
from quiltfn.wire import FunctionUrl, NewFunctionUrl


def get_url(function: str, *, reveal: bool = False) -> Flow[FunctionUrl]:
    """How a function is reached over plain HTTP. Raises NotFoundError if it is not.

    `reveal`: with the secret of its webhooks, which needs scope write; otherwise it reads ***.
    """
    wanted = f"/url{query(reveal=reveal or None)}"
    return on(function, wanted, lambda path: get(path, FunctionUrl))


@with_name_and_fields_of(NewFunctionUrl)
def set_url(function: str, url: NewFunctionUrl) -> Flow[FunctionUrl]:
    """Set how a function is reached over plain HTTP. What is not named takes the default."""
    return on(function, "/url", lambda path: put(path, FunctionUrl, url))


def delete_url(function: str) -> Flow[None]:
    """Take a function's URL away."""
    return on(function, "/url", delete)


class UrlMethods:
    """What both clients can do with URLs of functions."""

    get_url = Method(get_url)
    set_url = Method(set_url)
    delete_url = Method(delete_url)
