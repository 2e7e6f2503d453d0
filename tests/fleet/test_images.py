"""Real nodes that fetch each other's images."""

import os
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, quiltfn, until
from fleet.nodes import Fleet, on
from fleet.test_calls import SHORT
from promises import promise

pytestmark = pytest.mark.sandbox

NAMES = ("one", "two", "three")
SOURCE = "def handler(event, context):\n    return 'image'\n"
# One file cannot be compressed, and is longer than what is in transit at a time.
FILES: dict[str, str | bytes] = {
    "mod.py": SOURCE,
    "data/long": os.urandom(3_000_000),
    "run*": "#!/bin/sh\n",
}


@pytest.fixture(scope="module")
def three(shared_fleet: Fleet) -> list[Server]:
    """Three nodes. Each test must leave them as they were, except for images."""
    return [shared_fleet.node(name, SHORT).start() for name in NAMES]


def having(digest: str, *nodes: Server) -> list[Server]:
    """The nodes that have the image's files."""
    return [node for node in nodes if (node.data_dir / "images" / digest).is_dir()]


def leftovers(*nodes: Server) -> list[Path]:
    """Temporary files that uploads or fetches have left."""
    return [path for node in nodes for path in (node.data_dir / "images").glob(".*")]


@promise("N40", "N42", "N45")
def test_an_image_is_on_two_nodes_and_every_node_can_use_it(three: list[Server]) -> None:
    nodes = three
    first, *others = nodes
    name = sample_runtimes.add(first, "python", FILES)
    digest = first.call("GET", f"/api/runtimes/{name}").json()["image"]
    # When an upload is acknowledged, two disks have the image.
    [second] = having(digest, *others)
    assert having(digest, first)
    [third] = [node for node in others if node is not second]

    # An invocation at the node without the image runs at a node with it.
    function = first.deploy("mod:handler", runtime=name, max_instances=3)
    there = Function(third, function.id)
    on(third, function)
    assert there.invoke()["stdout"] == "image"
    assert not having(digest, third)

    # A node without the image can add a runtime with it, and list its files.
    answer = third.call("POST", "/api/runtimes", {"name": "n", "kind": "python", "image": digest})
    assert answer.status_code == 201, answer.text
    assert having(digest, third)
    listed = third.call("GET", "/api/runtimes/n/files").json()["files"]
    assert {file["path"] for file in listed} == {"mod.py", "data/long", "run"}
    content = third.call("GET", f"{function.path}/versions/1/files/data/long").content
    assert content == FILES["data/long"]

    # If one of the two nodes with an image is drained, the last node gets a copy.
    small = sample_runtimes.upload(first, {"mod.py": "x = 1"})
    [holder] = having(small, *others)
    [last] = [node for node in others if node is not holder]
    name_of = dict(zip(nodes, NAMES, strict=True))
    assert first.call("POST", f"/api/nodes/{name_of[holder]}/drain").status_code == 200
    until(lambda: having(small, last))
    # The image stays available without the node that got the upload.
    assert first.call("POST", f"/api/nodes/{name_of[holder]}/uncordon").status_code == 200
    first.stop()
    record = there.invoke()
    assert (record["stdout"], record["execution_node_id"] != "one") == ("image", True)
    assert not leftovers(*nodes)
    first.start()


def test_packages_come_to_a_node_with_the_code(three: list[Server]) -> None:
    nodes = three
    first, *others = nodes
    packages = sample_runtimes.upload(first, {"site-packages/lib.py": "WORD = 'packages'"})
    source = "import lib\ndef handler(event, context):\n    return lib.WORD\n"
    name = sample_runtimes.add(first, "python", {"mod.py": source}, packages=packages)
    # On a busy machine a node may seem lost for a moment, so all nodes may have copies by now.
    last = next((node for node in others if not having(packages, node)), others[-1])
    function = first.deploy("mod:handler", runtime=name)
    on(last, function)
    # The other nodes accept no invocations, so the last node must get the packages to run the
    # function.
    drained = [name for node, name in zip(nodes, NAMES, strict=True) if node is not last]
    for name in drained:
        assert first.call("POST", f"/api/nodes/{name}/drain").status_code == 200
    until(lambda: Function(last, function.id).try_invoke().status_code == 200, 30)
    record = Function(last, function.id).invoke()
    assert record["stdout"] == "packages"
    assert having(packages, last)
    for name in drained:
        assert first.call("POST", f"/api/nodes/{name}/uncordon").status_code == 200


@promise("N47")
def test_a_node_is_not_removed_while_it_alone_has_an_image(fleet: Fleet) -> None:
    first, second = (fleet.node(name, SHORT).start() for name in ("one", "two"))
    assert first.call("POST", "/api/nodes/two/drain").status_code == 200
    until(lambda: second.call("GET", "/health/ready").status_code == 503)
    # the other node is not ready, so it takes no copy
    name = sample_runtimes.add(first, "python", {"mod.py": SOURCE})
    function = first.deploy("mod:handler", runtime=name, name="needs-it")
    on(second, function)

    refused = second.call("DELETE", "/api/nodes/one")
    assert refused.status_code == 409
    error = refused.json()
    assert "node one has 1 image(s) that no other node has" in error["error"]
    assert "default/needs-it" in error["error"]
    assert "sole_images is 0" in error["hint"]
    by_command = quiltfn("nodes", "remove", "one", "--url", second.url)
    assert by_command.code != 0
    assert "needs-it" in by_command.stderr
    assert second.call("GET", "/api/nodes/one").json()["sole_images"] == 1

    assert second.call("POST", "/api/nodes/one/drain").status_code == 200
    assert second.call("POST", "/api/nodes/two/uncordon").status_code == 200
    until(lambda: second.call("GET", "/api/nodes/one").json()["sole_images"] == 0)
    assert second.call("DELETE", "/api/nodes/one").status_code == 204
    assert first.wait() != 0
    assert Function(second, function.id).invoke()["stdout"] == "image"
    # No other node can take a copy of the image, so only force removes the node.
    assert second.call("DELETE", "/api/nodes/two?force=maybe").status_code == 422
    assert second.call("DELETE", "/api/nodes/two").status_code == 409
    assert second.call("DELETE", "/api/nodes/two?force=true").status_code == 204
    assert second.wait() != 0
