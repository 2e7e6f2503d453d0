"""Pictures of pages for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

WIDTHS = (1280, 768, 390)  # a laptop, a tablet and a phone
HEIGHT = 900


@dataclass(frozen=True)
class Camera:
    """Takes pictures into `directory`; takes none if it is None."""

    directory: Path | None

    def take(self, page: Page, name: str, widths: Sequence[int] = WIDTHS) -> None:
        """Take a picture of the window at each width, as `<name>-<width>.png`."""
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        before = page.viewport_size
        for width in widths:
            page.set_viewport_size({"width": width, "height": HEIGHT})
            page.screenshot(path=self.directory / f"{name}-{width}.png", animations="disabled")
        if before is not None:
            page.set_viewport_size(before)
