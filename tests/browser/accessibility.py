"""Checks that a page is usable for everybody."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from browser.layout import misfits
from browser.pictures import Camera

GRAVE = ("serious", "critical")


def grave_findings(page: Page) -> list[str]:
    """Axe's serious and critical findings: the rule, and the elements that break it."""
    return [
        f"{rule['id']}: {node['html'][:300]}"
        for rule in Axe().run(page).response["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]


def assert_usable(page: Page, camera: Camera, picture: str) -> None:
    """Check that axe has no serious finding, in light and in dark, and that everything fits into
    the window. Takes pictures if they are requested.
    """
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        camera.take(page, f"{picture}-{scheme}")
        assert grave_findings(page) == [], scheme
    assert misfits(page) == []
