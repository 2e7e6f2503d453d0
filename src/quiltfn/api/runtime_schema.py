"""The wire shapes of runtimes and images."""

import msgspec

from quiltfn.api.parse import one_of
from quiltfn.model.image import Image
from quiltfn.model.runtime import Isolation, Kind, Network, Runtime
from quiltfn.model.version import MASK
from quiltfn.runtimes import Named, is_own


class AddRuntimeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /api/runtimes."""

    name: str
    kind: str
    image: str | None = None
    command: list[str] | None = None
    environment: dict[str, str] = {}
    isolation: str = Isolation.CRUN.value
    network: str = Network.NONE.value
    writable_paths: list[str] = []
    shared: bool = False

    def wanted(self) -> Runtime:
        """Without what the server itself decides. Raises `Unprocessable`."""
        return Runtime(
            id="",
            name=self.name,
            kind=Kind(one_of(self.kind, "kind", list(Kind), "python")),
            image=self.image,
            command=tuple(self.command or ()),
            environment=self.environment,
            isolation=Isolation(one_of(self.isolation, "isolation", list(Isolation), "crun")),
            network=Network(one_of(self.network, "network", list(Network), "none")),
            writable_paths=tuple(self.writable_paths),
        )


class RuntimeAnswer(msgspec.Struct, kw_only=True):
    """A runtime. `image`: null for the host's own files alone. `shared`: whether all tenants can
    use it, as they can the `built_in` ones. `created_at` in Unix seconds.
    """

    name: str
    id: str
    kind: str
    image: str | None
    image_digest: str
    command: list[str]
    environment: dict[str, str]
    isolation: str
    network: str
    writable_paths: list[str]
    built_in: bool
    shared: bool
    created_at: int


class RuntimeList(msgspec.Struct, kw_only=True):
    runtimes: list[RuntimeAnswer]


class ImageAnswer(msgspec.Struct, kw_only=True):
    """An image. `files` without directories; `size_bytes` of what is in them."""

    digest: str
    files: int
    size_bytes: int


def runtime_answer(named: Named, *, show: bool) -> RuntimeAnswer:
    """`show`: whether the caller may see the values of the environment."""
    one = named.runtime
    return RuntimeAnswer(
        name=one.name,
        id=one.id,
        kind=one.kind,
        image=one.image,
        image_digest=one.image_digest,
        command=list(one.command),
        environment=one.environment if show else dict.fromkeys(one.environment, MASK),
        isolation=one.isolation,
        network=one.network,
        writable_paths=list(one.writable_paths),
        built_in=is_own(one),
        shared=named.is_shared,
        created_at=one.created_at,
    )


def image_answer(one: Image) -> ImageAnswer:
    return ImageAnswer(digest=one.digest, files=one.files, size_bytes=one.size_bytes)
