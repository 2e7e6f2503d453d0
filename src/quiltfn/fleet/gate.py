"""GatedSandboxes: creates sandboxes only while this node has its lease."""

from collections.abc import Callable

from quiltfn.fleet.lease import NodeLease
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Sandbox, Sandboxes, SandboxFailed


class GatedSandboxes:
    """`ports.Sandboxes` of a node of a fleet."""

    def __init__(
        self, sandboxes: Sandboxes, lease: NodeLease, end_by: Callable[[float], None]
    ) -> None:
        """`end_by`: sends a deadline to the launcher, as `StockedSandboxes` says."""
        self._sandboxes, self._lease, self._end_by = sandboxes, lease, end_by

    async def create(self, spec: VersionSpec) -> Sandbox:
        """As `Sandboxes` says. Raises `SandboxFailed` without a lease, also if the lease ended
        while the sandbox was created.
        """
        self._check()
        # Just after a renewal, the launcher may still have an earlier deadline that has passed.
        self._end_by(self._lease.deadline)
        sandbox = await self._sandboxes.create(spec)
        try:
            self._check()
        except SandboxFailed:
            await sandbox.destroy()
            raise
        return sandbox

    def _check(self) -> None:
        problem = self._lease.problem()
        if problem:
            raise SandboxFailed(problem)

    def expect(self, spec: VersionSpec) -> None:
        """As `Sandboxes` says."""
        self._sandboxes.expect(spec)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """As `Sandboxes` says."""
        self._sandboxes.give_up(mib, freed)
