"""What axe finds on a page that keeps people from using it."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

GRAVE = ("serious", "critical")


def grave_findings(page: Page) -> list[str]:
    """Findings that are serious or critical: the rule, and the elements that break it."""
    return [
        f"{rule['id']}: {node['html'][:300]}"
        for rule in Axe().run(page).response["violations"]
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]
