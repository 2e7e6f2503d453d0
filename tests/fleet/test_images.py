"""Real nodes that get each other's images."""

import os
from functools import partial
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from fleet.nodes import Fleet
from fleet.test_calls import SHORT, is_active

pytestmark = pytest.mark.sandbox

SOURCE = "def handler(event, context):\n    return 'image'\n"
# Incompressible and longer than what is on the way at a time, with a link and an empty directory.
FILES: dict[str, str | bytes] = {
    "mod.py": SOURCE,
    "data/long": os.urandom(3_000_000),
    "run*": "#!/bin/sh\n",
}


def having(digest: str, *nodes: Server) -> list[Server]:
    """Those of the nodes that have the image's files."""
    return [node for node in nodes if (node.data_dir / "images" / digest).is_dir()]


def leftovers(*nodes: Server) -> list[Path]:
    """What an upload or a fetch has left of its own."""
    return [path for node in nodes for path in (node.data_dir / "images").glob(".*")]


def test_an_image_is_on_two_nodes_and_every_node_can_use_it(fleet: Fleet) -> None:
    nodes = [fleet.node(name, SHORT).start() for name in ("one", "two", "three")]
    one = nodes[0]
    name = sample_runtimes.add(one, "python", FILES)
    digest = one.call("GET", f"/api/runtimes/{name}").json()["image"]
    # Whoever was answered has it on two disks.
    with_it = having(digest, *nodes)
    assert one in with_it
    assert len(with_it) == 2
    [third] = [node for node in nodes if node not in with_it]

    # A call at the node without it runs where it is.
    function = one.deploy("mod:handler", runtime=name, max_instances=3)
    until(partial(is_active, third, function))
    record = Function(third, function.id).invoke()
    assert record["stdout"] == "image"
    assert not having(digest, third)

    # What shows its files needs them here, and so does a runtime that names them.
    listed = third.call("GET", f"/api/runtimes/{name}/files").json()["files"]
    assert {file["path"] for file in listed} == {"mod.py", "data/long", "run"}
    assert having(digest, third)
    content = third.call("GET", f"{function.path}/versions/1/files/data/long").content
    assert content == FILES["data/long"]
    assert not leftovers(*nodes)
