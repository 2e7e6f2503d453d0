"""CORS: the headers that tell a browser what pages of other origins may do."""

import pytest

from quiltfn.http_trigger.cors import (
    OWN_PAGES,
    answered,
    answered_to_own_page,
    is_preflight,
    preflight,
)
from quiltfn.model.url import Cors

APP = "https://app.example.com"
ASKS = {"origin": APP, "access-control-request-method": "PUT"}
ONE = Cors(
    allow_origins=[APP],
    allow_methods=["GET", "PUT"],
    allow_headers=["content-type"],
    expose_headers=["x-total"],
    allow_credentials=True,
    max_age_seconds=600,
)
ANY = Cors()


def test_what_is_a_preflight() -> None:
    assert is_preflight(ONE, ASKS)
    assert not is_preflight(ONE, {"origin": APP})
    assert not is_preflight(ONE, {"access-control-request-method": "PUT"})
    assert is_preflight(OWN_PAGES, ASKS | {"origin": "null"})
    assert not is_preflight(OWN_PAGES, ASKS), "the handler may answer it"


def test_a_preflight_of_an_origin_that_may() -> None:
    assert dict(preflight(ONE, ASKS)) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "content-type",
        "access-control-max-age": "600",
        "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    headers = dict(preflight(ANY, ASKS | {"access-control-request-headers": "x-a, x-b"}))
    assert headers["access-control-allow-origin"] == "*"
    assert headers["access-control-allow-methods"] == "PUT"
    assert headers["access-control-allow-headers"] == "x-a, x-b"
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.com",
        APP + ".evil.example",
        APP + ":8443",
        "null",
        "",
    ],
)
def test_no_other_origin_is_told_anything(origin: str) -> None:
    headers = dict(preflight(ONE, ASKS | {"origin": origin}))
    assert list(headers) == ["vary"]
    assert dict(answered(ONE, {"origin": origin}, [])) == {"vary": "Origin"}


def test_a_page_without_an_origin_may_call_its_own_url_without_credentials() -> None:
    page = {"origin": "null"}
    headers = dict(preflight(OWN_PAGES, ASKS | page))
    assert headers["access-control-allow-origin"] == "null"
    assert "access-control-allow-credentials" not in headers
    assert answered_to_own_page(page, []) == [
        ("vary", "Origin"),
        ("access-control-allow-origin", "null"),
    ]
    for other in ({}, {"origin": APP}):
        assert answered_to_own_page(other, []) == [("vary", "Origin")]
    for own in (("access-control-allow-origin", APP), ("vary", "Accept, Origin")):
        assert answered_to_own_page(page, [own]) == [own], "the handler has rules of its own"


def test_an_answer_says_what_the_url_says_and_not_what_the_handler_does() -> None:
    own = [("Access-Control-Allow-Origin".lower(), "*"), ("x-total", "3")]
    assert answered(ONE, {"origin": APP}, own) == [
        ("x-total", "3"),
        ("vary", "Origin"),
        ("access-control-allow-origin", APP),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-total"),
    ]
    assert answered(ONE, {}, own) == [("x-total", "3"), ("vary", "Origin")]
