"""CORS (WHATWG Fetch, section 3.2), handled in place of the handler."""

from collections.abc import Mapping

from quiltfn.http_trigger.call import Field
from quiltfn.model.url import ANY_ORIGIN, Cors

Headers = Mapping[str, str]
VARY = ("vary", "Origin")
OF_CORS = "access-control-"
# The origin that pages of a function send, since sandboxed pages have no real origin.
NO_ORIGIN = "null"
OWN_PAGES = Cors(allow_origins=(NO_ORIGIN,), max_age_seconds=600)


def is_preflight(cors: Cors, headers: Headers) -> bool:
    """Whether a request is a browser's preflight request that is answered here. If the URL has no
    rule, only requests of the function's own pages are answered; others go to the handler.
    """
    return (
        "origin" in headers
        and "access-control-request-method" in headers
        and (cors is not OWN_PAGES or headers["origin"] == NO_ORIGIN)
    )


def preflight(cors: Cors, headers: Headers) -> list[Field]:
    """Returns the headers of the response to a preflight request. An origin that is not allowed
    gets no headers that allow anything.
    """
    fields = _of_origin(cors, headers)
    vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    if len(fields) > 1:
        asked_method = headers["access-control-request-method"]
        methods = ", ".join(cors.allow_methods) or asked_method
        fields.append(("access-control-allow-methods", methods))
        asked = headers.get("access-control-request-headers", "")
        allowed = ", ".join(cors.allow_headers) or asked
        if allowed:
            fields.append(("access-control-allow-headers", allowed))
        fields.append(("access-control-max-age", str(cors.max_age_seconds)))
    return [*(one for one in fields if one is not VARY), ("vary", vary)]


def answered_to_own_page(headers: Headers, fields: list[Field]) -> list[Field]:
    """Returns the headers of a response of a URL without a rule: adds those of `OWN_PAGES`, unless
    the handler has set CORS headers itself.
    """
    for name, value in fields:
        if name.startswith(OF_CORS) or (name == "vary" and "origin" in value.lower()):
            return fields
    return [*fields, VARY] if "origin" not in headers else answered(OWN_PAGES, headers, fields)


def answered(cors: Cors, headers: Headers, fields: list[Field]) -> list[Field]:
    """Returns the headers of a response, with the CORS headers of the function's URL in place of
    the handler's.
    """
    kept = [(name, value) for name, value in fields if not name.startswith(OF_CORS)]
    more = _of_origin(cors, headers)
    if len(more) > 1 and cors.expose_headers:
        more.append(("access-control-expose-headers", ", ".join(cors.expose_headers)))
    return [*kept, *more]


def _of_origin(cors: Cors, headers: Headers) -> list[Field]:
    """Returns the headers for the requesting origin; only `VARY` if it is not allowed."""
    origin = headers.get("origin")
    if origin is None:
        return [VARY]
    if ANY_ORIGIN in cors.allow_origins:
        return [VARY, ("access-control-allow-origin", ANY_ORIGIN)]
    if origin.lower() not in cors.allow_origins:
        return [VARY]
    found = [VARY, ("access-control-allow-origin", origin)]
    if cors.allow_credentials:
        found.append(("access-control-allow-credentials", "true"))
    return found
