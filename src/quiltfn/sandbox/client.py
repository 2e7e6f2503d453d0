"""Where the server's sandboxes come from: the launcher makes one and hands its socket over."""

import socket

from quiltfn.model.version import Content
from quiltfn.ports import Sandbox, SandboxFailed
from quiltfn.sandbox.channel import LauncherChannel, LauncherRefused
from quiltfn.sandbox.guest import GuestSandbox


class LauncherSandboxes:
    """`ports.Sandboxes` over the launcher."""

    def __init__(self, channel: LauncherChannel) -> None:
        self._channel = channel

    async def create(self, content: Content) -> Sandbox:
        try:
            answer = await self._channel.ask(
                "create",
                memory_mib=content.memory_limit_mb,
                cpu_percent=content.cpu_limit_percent,
                image=content.pinned.image,
                network=content.pinned.network,
                writable_paths=content.pinned.writable_paths,
            )
        except LauncherRefused as error:
            raise SandboxFailed(str(error)) from None
        control, events = answer.descriptors
        sandbox = GuestSandbox(answer.message["sandbox"], events, self._channel)
        try:
            await sandbox.greet(socket.socket(fileno=control))
        except BaseException:
            await sandbox.destroy()
            raise
        return sandbox
