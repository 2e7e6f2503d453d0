"""The time to fetch an image from another node, on loopback: two processes, mutual TLS.

.venv/bin/python bench/images.py

The floor is an upload of the same archive to the same directory, without a network: unpacking,
hashing and the disk. During each fetch, small requests are sent to the same node, like invocations.
"""

import argparse
import asyncio
import io
import multiprocessing
import os
import shutil
import socket
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop

from peers import Directory
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.base.clock import SystemClock
from quiltfn.fleet.files import NodeFile, new_fleet, new_node
from quiltfn.fleet.image_copies import ImageNodes
from quiltfn.fleet.image_fetch import IMAGES, ImageParts
from quiltfn.fleet.images import FleetImages
from quiltfn.fleet.peer_server import open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.images import ImageDirectory, ImageLimits
from quiltfn.model.image import Archive
from quiltfn.model.member import Member
from quiltfn.ports import Change, ChangeKind
from quiltfn.ports.fleet import ImageCopy
from quiltfn.ports.peers import Asker
from quiltfn.store.fleet.image_copies import SqlImageCopies

# Files and bytes of each.
TREES = {"a handler": (1, 5_000), "one long file": (1, 120_000_000), "2,000 files": (2000, 60_000)}
SMALL_EVERY_S = 0.005


class Nothing(SqlImageCopies):
    """Stands for the limits on images, and limits nothing; and for the list of copies, in which
    node `two` has every image.
    """

    def __init__(self) -> None:
        """There is no database."""

    def counted(self) -> Mapping[str, int]:
        return {}

    def counted_bytes(self, _: str) -> None:
        return None

    def check_room(self, _: str) -> None:
        return None

    async def load(self, digests: Collection[str] | None = None) -> Sequence[ImageCopy]:
        return [ImageCopy(one, "two") for one in digests or ()]

    async def state(self, _node: str, _digests: Collection[str]) -> None:
        return None


def images_of(own: NodeFile, path: Path, address: str) -> tuple[ImageDirectory, FleetImages]:
    clock = SystemClock()
    nothing: Any = Nothing()
    directory = ImageDirectory(path / own.name, clock, ImageLimits())
    directory.start()
    peers = HttpPeers(own, Directory(address), keys=None)
    parts = ImageParts(directory, nothing, nothing, peers, clock)
    images = FleetImages(own.name, parts, ImageNodes(0.0))
    images.read([Member(name=name, epoch=1, version="2") for name in ("one", "two")])
    return directory, images


def archives(name: str) -> bytes:
    count, size = TREES[name]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"d{number % 50}/f{number}")
            member.size = size
            tar.addfile(member, io.BytesIO(os.urandom(size)))
    return out.getvalue()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


async def serve(own: NodeFile, path: Path, pipe: Connection) -> None:
    directory, images = images_of(own, path, "127.0.0.1:1")

    async def respond(request: Request, asker: Asker) -> Response:
        if request.path.startswith(IMAGES):
            return await images.answer(request, asker)
        return Response(body=b"x" * 600)

    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    digests = [(await directory.take(Archive.TAR, pieces(archives(name)))).digest for name in TREES]
    async with open_peer_server(own, Directory(""), respond, listener, keys=None):
        pipe.send((listener.getsockname()[1], digests))
        await asyncio.to_thread(pipe.recv)


def child(own: NodeFile, path: Path, pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(own, path, pipe))


async def small_requests(peers: HttpPeers, took: list[float]) -> None:
    """Sends small requests until it is cancelled."""
    while True:
        began = time.perf_counter()
        async with peers.request("two", "GET", b"/small", (), b"", None) as answer:
            await answer.read(10_000)
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(SMALL_EVERY_S)


async def measure(own: NodeFile, path: Path, served: tuple[int, list[str]], rounds: int) -> None:
    address = f"127.0.0.1:{served[0]}"
    peers = HttpPeers(own, Directory(address), keys=None)
    for _ in range(rounds):
        for name, digest in zip(TREES, served[1], strict=True):
            shutil.rmtree(path / own.name, ignore_errors=True)
            directory, images = images_of(own, path, address)
            change = Change(number=1, kind=ChangeKind.IMAGE_COPY, tenant_id="", object_id=digest)
            await images.follow_changes([change])
            took: list[float] = []
            beside = asyncio.ensure_future(small_requests(peers, took))
            await asyncio.sleep(0.2)
            took.clear()
            began = time.perf_counter()
            await images.obtain(digest)
            fetch_s = time.perf_counter() - began
            beside.cancel()
            archive = b"".join([piece async for piece in directory.archive(digest)])
            shutil.rmtree(path / own.name)
            directory, _ = images_of(own, path, address)
            began = time.perf_counter()
            await directory.take(Archive.TAR, pieces(archive))
            floor_s = time.perf_counter() - began
            told_of = sorted(took) or [0.0]
            print(
                f"{name}: {fetch_s:.3f} s, floor {floor_s:.3f} s; a small request beside it: "
                f"p50 {told_of[len(told_of) // 2]:.2f} ms, most {told_of[-1]:.1f} ms"
            )
    await peers.aclose()


def main(rounds: int) -> None:
    now = time.time()
    fleet = new_fleet("postgresql://quiltfn@db/quiltfn", "", now)
    first, second = (
        new_node(fleet, name, ("127.0.0.1:1", "127.0.0.1:1"), now, 9) for name in ("one", "two")
    )
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = multiprocessing.Pipe()
        arguments = (second, Path(directory), theirs)
        process = multiprocessing.get_context("spawn").Process(target=child, args=arguments)
        process.start()
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(measure(first, Path(directory), ours.recv(), rounds))
        finally:
            ours.send("end")
            process.join()


if __name__ == "__main__":
    it = argparse.ArgumentParser(description=__doc__)
    it.add_argument("--rounds", type=int, default=3)
    main(it.parse_args().rounds)
