"""The pictures of the documents: `scripts/screenshots` takes them."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, expect

from browser.chromium import launched
from browser.scene import Scene, make_scene
from e2e.server import watched
from quiltfn.sdk import Client

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
LARGEST_BYTES = 120_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture. `path`: of its page behind #/. `scheme`: light or dark. Sizes in pixels."""

    name: str
    path: Callable[[Scene], str]
    scheme: str = "light"
    width: int = 1280
    height: int = 720


ALL = (
    Picture(name="functions", path=lambda _: ""),
    Picture(name="call", path=lambda scene: scene.calls["cold"], scheme="dark"),
    Picture(name="output", path=lambda scene: scene.calls["coloured"], height=800),
    Picture(name="invocations", path=lambda _: "invocations"),
    Picture(name="schedules", path=lambda _: "schedules", scheme="dark", height=480),
    Picture(name="phone", path=lambda scene: scene.calls["retried"], width=390, height=844),
)


def settled(page: Page) -> None:
    """Waits until the page shows what it has asked for."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def take_all(directory: Path) -> None:
    """Takes each picture, of a server that is started for them."""
    directory.mkdir(parents=True, exist_ok=True)
    with watched() as server, launched() as browser:
        with Client(server.start().url) as client:
            scene = make_scene(client)
        for one in ALL:
            context = browser.new_context(
                base_url=server.url,
                viewport={"width": one.width, "height": one.height},
                color_scheme="dark" if one.scheme == "dark" else "light",
                locale="en-GB",
                timezone_id="Europe/Paris",
            )
            page = context.new_page()
            page.goto(f"/ui/#/{one.path(scene)}")
            settled(page)
            target = directory / f"{one.name}.png"
            page.screenshot(path=target, animations="disabled")
            size = target.stat().st_size
            assert size <= LARGEST_BYTES, f"{target} has {size} bytes, more than {LARGEST_BYTES}"
            print(f"{target.name}: {size:,} bytes")
            context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=PICTURES, metavar="DIR")
    take_all(parser.parse_args().to)


if __name__ == "__main__":
    main()
