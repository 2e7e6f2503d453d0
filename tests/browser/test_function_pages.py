"""A page that a function returns at its URL, on the API's host and in a browser's sandbox."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from e2e.server import Function, Server
from promises import promise
from spec.api_client import Api

pytestmark = promise("U18")

PAGE = r"""
case "$REQUEST_METHOD $PATH_INFO" in
"GET /")
    printf 'Content-Type: text/html\n\n<title>Gallery</title><a href="next">Next</a>';;
"GET /next") printf 'Content-Type: text/html\n\n<title>Next</title><p>second page</p>';;
*) printf 'Content-Type: text/plain\n\n%s %s %s' "$REQUEST_METHOD" "$PATH_INFO" "$(cat)";;
esac
"""
FETCH = """async ([url, options]) => {
    try {
        return await (await fetch(url, options)).text();
    } catch (error) {
        return String(error);
    }
}"""
JSON_POST: dict[str, Any] = {
    "method": "POST",
    "body": "{}",
    "headers": {"content-type": "application/json"},
}


def test_a_page_follows_its_relative_links_and_fetches_its_own_url(
    site: Server, page: Page, deployed: Callable[..., Function], expected: list[str]
) -> None:
    expected += ["blocked by CORS policy", "Failed to load resource"]
    api = Api(site.url)
    gallery, other = (deployed(PAGE, name=name) for name in ("gallery", "with-rule"))
    api.good("PUT", f"{gallery.path}/url", {"auth": "none"})
    rule = {"auth": "none", "cors": {"allow_origins": ["https://app.example.com"]}}
    api.good("PUT", f"{other.path}/url", rule)

    page.goto("/fn/default/gallery")
    expect(page).to_have_url(f"{site.url}/fn/default/gallery/")
    for url, options, reply in (
        ("data", {}, "GET /data "),
        ("data", {"method": "POST", "body": "x"}, "POST /data x"),
        ("data", JSON_POST, "POST /data {}"),
    ):
        assert page.evaluate(FETCH, [url, options]) == reply
    # The page cannot reach the API, or a URL with a CORS rule.
    for url in ("/api/functions", "/fn/default/with-rule/data"):
        assert "Failed to fetch" in page.evaluate(FETCH, [url, {}])
    assert page.evaluate("self.origin") == "null"

    page.get_by_role("link", name="Next").click()
    expect(page).to_have_url(f"{site.url}/fn/default/gallery/next")
    expect(page.get_by_text("second page")).to_be_visible()
