"""The pictures of the documentation, which `scripts/screenshots` takes."""

import argparse
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from browser.chromium import launched
from browser.fleet_scene import fleet_of, open_shop
from browser.scene import Scene, make_scene
from e2e.server import GVISOR, watched
from quiltfn.sdk import Client

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
LARGEST_BYTES = 120_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture to take. `path`: the part of the page's address after #/. `scheme`: light or dark.
    Sizes are in pixels.
    """

    name: str
    path: Callable[[Scene], str]
    scheme: str = "light"
    width: int = 1280
    height: int = 720


ALL = (
    Picture(name="functions", path=lambda _: "", height=600),
    Picture(
        name="function",
        path=lambda scene: f"functions/{scene.functions['make-thumbnail']}",
        height=800,
    ),
    Picture(name="call", path=lambda scene: scene.calls["cold"], scheme="dark"),
    Picture(name="output", path=lambda scene: scene.calls["coloured"], height=860),
    Picture(name="invocations", path=lambda _: "invocations", height=640),
    Picture(name="schedules", path=lambda _: "schedules", scheme="dark", height=480),
)
FLEET = Picture(name="fleet", path=lambda _: "fleet", height=760)
NODES = ("north", "east", "south")
BUSY_S = 8.0


SEEN_MS = 2_500  # animations have ended by then
CUSTOMERS_S = 20.0  # how many seconds functions are invoked before the first picture
BUSY = ("make-thumbnail", "make-thumbnail", "make-thumbnail", "send-invoice", "price-feed")


@contextmanager
def customers(url: str) -> Iterator[None]:
    """Invokes some of the shop's functions now and then during the block."""
    closed, chance = threading.Event(), random.Random(7)

    def shop() -> None:
        with Client(url) as client:
            while not closed.wait(chance.expovariate(6)):
                client.functions.invoke(chance.choice(BUSY), {"key": "orders/20/plate.jpg"})

    threads = [threading.Thread(target=shop) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        closed.wait(CUSTOMERS_S)
        yield
    finally:
        closed.set()
        for thread in threads:
            thread.join()


def settled(page: Page) -> None:
    """Wait until the page shows the responses to its requests."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def take_all(directory: Path) -> None:
    """Start a server and take each picture of it."""
    directory.mkdir(parents=True, exist_ok=True)
    with watched(GVISOR) as server, launched() as browser:
        with Client(server.start().url) as client:
            scene = make_scene(client)
        with customers(server.url):
            for picture in ALL:
                take(browser, server.url, scene, picture, directory / f"{picture.name}.png")
    take_fleet(directory)


def take_fleet(directory: Path) -> None:
    """Take the picture of a fleet with one drained node."""
    with (
        tempfile.TemporaryDirectory() as files,
        fleet_of(Path(files), NODES) as nodes,
        launched() as browser,
    ):
        open_shop(nodes, BUSY_S)
        answer = nodes[0].call("POST", f"/api/nodes/{NODES[-1]}/drain")
        assert answer.status_code == 200, answer.text
        take(browser, nodes[0].url, Scene({}, {}), FLEET, directory / f"{FLEET.name}.png")


def take(browser: Browser, url: str, scene: Scene, picture: Picture, target: Path) -> None:
    context = browser.new_context(
        base_url=url,
        viewport={"width": picture.width, "height": picture.height},
        color_scheme="dark" if picture.scheme == "dark" else "light",
        locale="en-GB",
        timezone_id="Europe/Paris",
    )
    page = context.new_page()
    page.goto(f"/ui/#/{picture.path(scene)}")
    settled(page)
    page.wait_for_timeout(SEEN_MS)
    page.screenshot(path=target, animations="disabled")
    context.close()
    size = target.stat().st_size
    assert size <= LARGEST_BYTES, f"{target} has {size} bytes, more than {LARGEST_BYTES}"
    print(f"{target.name}: {size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=PICTURES, metavar="DIR")
    take_all(parser.parse_args().to)


if __name__ == "__main__":
    main()
