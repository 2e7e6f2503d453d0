"""Runtimes: listed, inspected and deleted."""

from pathlib import Path

from playwright.sync_api import Page, expect

from browser.scene import Scene, archive_of
from e2e.server import Server
from promises import promise
from quiltfn.sdk import Client

pytestmark = promise("A56")


def test_the_servers_own_and_ours_are_listed(page: Page, scene: Scene) -> None:
    assert scene
    # a window that shows every row, including those of other tests
    page.set_viewport_size({"width": 1280, "height": 3000})
    page.goto("/ui/#/runtimes")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="shop", exact=True))
    expect(row).to_contain_text("python")
    expect(row).to_contain_text("you")
    own = page.get_by_role("row").filter(has=page.get_by_role("link", name="shell", exact=True))
    expect(own).to_contain_text("the server")
    row.get_by_role("link").click()
    expect(page.get_by_role("region", name="What it is")).to_contain_text("SHOP_REGION")
    expect(page.get_by_role("region", name="Functions that use it")).to_contain_text(
        "make-thumbnail"
    )
    files = page.get_by_role("region", name="Files").get_by_role("row")
    expect(files).to_have_count(4)
    expect(files.filter(has_text="thumbs.py")).to_contain_text("B")
    expect(page.get_by_role("region", name="Packages")).to_contain_text("pillow")
    expect(page.get_by_role("region", name="Packages")).to_contain_text("11.2.1")


def test_endless_files_come_page_by_page(page: Page, site: Server, tmp_path: Path) -> None:
    archive = tmp_path / "files.tar"
    archive.write_bytes(archive_of({f"data/{n:04}.txt": "x" for n in range(150)}))
    with Client(site.url) as client:
        image = client.runtimes.upload_image(archive)
        client.runtimes.add(name="many-files", kind="shell", image=image.digest)
        page.goto("/ui/#/runtimes/many-files")
        files = page.get_by_role("region", name="Files")
        expect(files.get_by_role("row")).to_have_count(100)
        files.get_by_role("button", name="Show more files").click()
        expect(files.get_by_role("row")).to_have_count(150)
        expect(files.get_by_role("button")).to_have_count(0)
        client.runtimes.remove("many-files")


def test_one_of_the_servers_own_cannot_be_deleted(page: Page) -> None:
    page.goto("/ui/#/runtimes/shell")
    expect(page.get_by_role("heading", name="shell")).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)


def test_one_is_deleted_after_a_question(page: Page, site: Server, tmp_path: Path) -> None:
    archive = tmp_path / "files.tar"
    archive.write_bytes(archive_of({"main.py": "def handler(): pass\n"}))
    with Client(site.url) as client:
        image = client.runtimes.upload_image(archive)
        client.runtimes.add(name="going", kind="python", image=image.digest)
    page.goto("/ui/#/runtimes/going")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Runtimes")).to_be_visible()
    expect(page.get_by_role("link", name="going")).to_have_count(0)
    assert site.call("GET", "/api/runtimes/going").status_code == 404
