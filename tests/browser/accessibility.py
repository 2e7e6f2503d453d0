"""Checks that everybody can use a page."""

from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from browser.layout import misfits
from browser.pictures import Camera

GRAVE = ("serious", "critical")
ALL: dict[str, Any] = {"resultTypes": ["violations"]}
# The rules that depend on colours. All other rules are checked in the light scheme, and have the
# same results in the dark one.
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
SCHEMES: dict[Literal["light", "dark"], dict[str, Any]] = {"light": ALL, "dark": ALL | COLOURS}


def grave_findings(page: Page, options: dict[str, Any] = ALL) -> list[str]:
    """Axe's serious and critical findings: each names the rule, and the elements that break it."""
    return [
        f"{rule['id']}: {node['html'][:300]}"
        for rule in Axe().run(page, options=options).response["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def assert_usable(page: Page, camera: Camera, picture: str) -> None:
    """Check that axe has no serious finding, in light and in dark, and that everything fits into
    the window. Takes pictures if they are requested.
    """
    for scheme, options in SCHEMES.items():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        camera.take(page, f"{picture}-{scheme}")
        assert grave_findings(page, options) == [], scheme
    assert misfits(page) == []
