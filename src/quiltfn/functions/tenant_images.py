"""Ownership of images by tenant, and their counted size: rights over what `ImageDirectory` stores.

The files of an image are stored once, no matter which tenants uploaded them. Tenants must not
notice that: a tenant owns its uploads, gets the same responses as if it were alone, and is charged
for all of its images. Images that an operator shares with all tenants belong to `SHARED`.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from quiltfn.base.mirror import Mirror
from quiltfn.images.image_store import ImageDirectory
from quiltfn.model.errors import CapacityFull, RateLimited
from quiltfn.model.image import Archive, Contents, Image, ImageFile, Package, TenantImage
from quiltfn.model.runtime import SHARED
from quiltfn.ports import Clock
from quiltfn.store.functions.runtimes import SqlTenantImages

MIB = 1024 * 1024
# Maximum uploads of a tenant at a time: an arriving archive takes disk space that no quota counts.
UPLOADS_OF_A_TENANT = 2


# The arguments of `TenantImages`.
ImagesKept = tuple[SqlTenantImages, ImageDirectory, Clock, Callable[[str], int], int]


class TenantImages(Mirror[dict[str, int]]):
    """The images of every tenant: by digest, the bytes counted for each tenant that has it.
    `quota_bytes`: of a tenant, as `Image.counted_bytes` counts; `SHARED` has none. `all_bytes`: of
    all images together; 0: no limit.
    """

    def __init__(
        self,
        store: SqlTenantImages,
        images: ImageDirectory,
        clock: Clock,
        quota_bytes: Callable[[str], int],
        all_bytes: int = 0,
    ) -> None:
        super().__init__()
        self._store, self.images, self._clock = store, images, clock
        self._all_bytes = all_bytes
        self._quota_bytes = quota_bytes
        self._counted: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._used_at: dict[tuple[str, str], float] = {}
        self._uploads: defaultdict[str, int] = defaultdict(int)

    async def fetch(self, digest: str) -> None:
        """Fetch an image from another node of the fleet (`fleet/images.py`). Raises
        `StoreUnavailable`.
        """

    async def keep(self, digest: str) -> None:
        """Return once an image that was uploaded here is on another node, too."""

    async def restore(self, *, may_be_elsewhere: bool = False) -> None:
        """At start: measure images that an earlier release did not, and load all.
        `may_be_elsewhere`: images whose files are not here may be on another node.
        """
        for stored in await self._store.load():
            image = stored
            if not stored.is_measured:
                counted = await self.images.measure(stored.digest)
                if counted is None:
                    if not may_be_elsewhere:
                        await self._store.remove(stored.tenant_id, stored.digest)
                    continue
                image = replace(stored, counted_bytes=counted)
                await self._store.add(image)
            self._note(image)

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, dict[str, int]]:
        """Load images, even if their files are missing here because they are on other nodes."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for image in await self._store.load(only):
            if image.is_measured:
                found[image.digest][image.tenant_id] = image.counted_bytes
        return found

    def _changed(
        self, key: str, before: dict[str, int] | None, after: dict[str, int] | None
    ) -> None:
        before, after = before or {}, after or {}
        for tenant_id in before.keys() - after.keys():
            self._forget(tenant_id, key)
        for tenant_id, counted in after.items():
            if before.get(tenant_id) != counted:
                self._counted[tenant_id][key] = counted
                self._used_at[tenant_id, key] = self._clock.now()

    async def take(
        self,
        tenant_id: str,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        contents: Contents = Contents.FILES,
        on_kept: Callable[[], None] = lambda: None,
    ) -> Image:
        """Store an uploaded image for the tenant. In the result, `is_new`: the tenant did not have
        the image. `on_kept` is called before the image is written to the store: until then the
        upload may be cancelled, and the tenant keeps its previous state.

        Raises as `ImageDirectory.take` does; `RateLimited` if the tenant's quota or its number of
        uploads at a time would be exceeded; `CapacityFull` if the limit for all images would be.
        The tenant then keeps its previous state. Errors of `keep` are raised, too; the tenant then
        has the image, and may repeat the upload.
        """
        if self._uploads[tenant_id] >= UPLOADS_OF_A_TENANT:
            raise RateLimited(
                f"the tenant uploads {UPLOADS_OF_A_TENANT} images already, as many as it may at "
                "once",
                retry_after=10,
            )
        self._uploads[tenant_id] += 1
        try:
            image = await self._take(tenant_id, archive, chunks, contents, on_kept)
            await self.keep(image.digest)
            return image
        finally:
            self._uploads[tenant_id] -= 1
            if not self._uploads[tenant_id]:
                del self._uploads[tenant_id]

    async def _take(
        self,
        tenant_id: str,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        contents: Contents,
        on_kept: Callable[[], None],
    ) -> Image:
        added: str | None = None

        def admit(image: Image) -> None:
            nonlocal added
            if image.digest not in self._counted.get(tenant_id, ()):
                self._check_quota(tenant_id, image)
                # Counted at once, so that no other upload is admitted to the same space.
                self._counted[tenant_id][image.digest] = image.counted_bytes
                added = image.digest

        try:
            image = await self.images.take(archive, chunks, admit, contents, tenant_id)
            on_kept()
            await self._give(TenantImage(tenant_id, image.digest, image.counted_bytes), image)
        except BaseException:
            if added is not None:
                self._forget(tenant_id, added)
            raise
        return replace(image, is_new=added is not None)

    async def _give(self, image: TenantImage, uploaded: Image | None = None) -> None:
        """`uploaded`: a new image, to which the quota applies. This node has already checked the
        quota; the store checks it again, since it knows the tenant's simultaneous uploads to other
        nodes.
        """
        quota_bytes = None
        if uploaded is not None and image.tenant_id != SHARED:
            quota_bytes = self._quota_bytes(image.tenant_id)
        async with self._changing:
            if not await self._store.add(image, quota_bytes):
                assert uploaded is not None
                raise self._over_quota(image.tenant_id, uploaded)
            self._note(image)

    def hold(self, tenant_id: str, digest: str) -> bool:
        """Whether the tenant has the image and its files are here. If the tenant has it, set its
        time of last use to now.
        """
        if digest not in self._counted.get(tenant_id, ()):
            return False
        self._used_at[tenant_id, digest] = self._clock.now()
        return self.images.hold(digest)

    async def bring(self, tenant_id: str, digest: str) -> None:
        """If the tenant has the image, fetch its files, unless they are already here or no other
        node has them. Raises as `fetch` does.
        """
        if digest in self._counted.get(tenant_id, ()) and digest not in self.images.all():
            await self.fetch(digest)

    async def _is_here(self, digest: str) -> bool:
        if not self.images.hold(digest):
            await self.fetch(digest)
        return self.images.hold(digest)

    async def files(
        self, tenant_id: str, digests: Sequence[str], after: str, count: int
    ) -> Sequence[ImageFile]:
        """Like `ImageDirectory.files`, for layered images, the upper one first. The caller has
        checked that the tenant may see them. Raises as `fetch` does.
        """
        found: dict[str, ImageFile] = {}
        for digest in digests:
            if await self._is_here(digest):
                for file in await self.images.files(digest, after, count, tenant_id):
                    found.setdefault(file.path, file)
        return sorted(found.values(), key=lambda file: file.path.split("/"))[:count]

    async def read(
        self, tenant_id: str, digests: Sequence[str], path: str, most: int
    ) -> bytes | None:
        """Like `ImageDirectory.read`, for layered images."""
        for digest in digests:
            if await self._is_here(digest):
                content = await self.images.read(digest, path, most, tenant_id)
                if content is not None:
                    return content
        return None

    async def packages(
        self, tenant_id: str, digests: Sequence[str]
    ) -> tuple[Sequence[Package], bool]:
        """Like `ImageDirectory.packages`, for layered images."""
        found: list[Package] = []
        are_all = True
        for digest in digests:
            if await self._is_here(digest):
                some, is_complete = await self.images.packages(digest, tenant_id)
                found, are_all = [*found, *some], are_all and is_complete
        found = sorted(
            set(found), key=lambda package: (package.kind, package.name.lower(), package.version)
        )
        return found, are_all

    async def program(self, digest: str, names: Sequence[str], path: str) -> str | None:
        """As `ImageDirectory.program`; fetches the image first."""
        found = await self._is_here(digest)
        return await self.images.program(digest, names, path) if found else None

    async def share(self, tenant_id: str, digest: str) -> bool:
        """Share an image of the tenant with all tenants. Returns whether it is now shared."""
        if self.hold(SHARED, digest):
            return True
        if not self.hold(tenant_id, digest):
            return False
        await self._give(TenantImage(SHARED, digest, self._counted[tenant_id][digest]))
        return True

    async def collect(
        self, in_use: frozenset[tuple[str, str]], shown: frozenset[str], grace_s: float
    ) -> None:
        """Remove from each tenant the images that it has not used for `grace_s` seconds, and the
        files of images that no tenant has. `in_use`: pairs of tenant and digest; `shown`: digests
        that sandboxes have mounted.
        """
        now, digests = self._clock.now(), frozenset(digest for _, digest in in_use)
        for held in list(self._used_at):
            tenant_id, digest = held
            # A shared image stays shared while any version of any tenant uses it.
            if held in in_use or (tenant_id == SHARED and digest in digests):
                self._used_at[held] = now
        for held, at in list(self._used_at.items()):
            if now - at >= grace_s:
                async with self._changing:
                    if self._used_at.get(held) == at:  # still unused
                        await self._give_back(*held)
        await self.images.collect(digests | shown | self.counted().keys(), grace_s)

    async def _give_back(self, tenant_id: str, digest: str) -> None:
        image = TenantImage(tenant_id, digest, self._counted[tenant_id][digest])
        # Noted before it is stored: meanwhile, no response may say that the tenant has the image.
        self._note(image, is_gone=True)
        is_gone = False
        try:
            is_gone = await self._store.remove(tenant_id, digest)
        finally:
            if not is_gone:
                self._note(image)

    def bytes_of(self, tenant_id: str) -> int:
        """The bytes of the tenant's images that count against its quota."""
        return sum(self._counted.get(tenant_id, {}).values())

    def bytes_in_all(self) -> int:
        """The counted bytes of all images together; an image of several tenants counts once."""
        return sum(self.counted().values())

    def counted(self) -> dict[str, int]:
        """The counted bytes of each image that any tenant has."""
        found: dict[str, int] = {}
        for held in self._counted.values():
            found |= held
        return found

    async def missing(self) -> Sequence[str]:
        """The tenants' images whose files are not on this machine."""
        return await self.images.missing(sorted(self.counted()))

    def counted_bytes(self, digest: str) -> int | None:
        """The counted bytes of an image; None if no tenant has it."""
        for held in self._counted.values():
            if digest in held:
                return held[digest]
        return None

    def check_room(self, digest: str) -> None:
        """Raises `CapacityFull` if an image of another node would exceed, with those on this node,
        the limit for all images.
        """
        counted = self.counted()
        here = sum(counted.get(one, 0) for one in {*self.images.all(), digest})
        if 0 < self._all_bytes < here:
            raise CapacityFull(
                "it has no room for another image: an operator can raise images_bytes"
            )

    def _check_quota(self, tenant_id: str, image: Image) -> None:
        used, quota_bytes = self.bytes_of(tenant_id), self._quota_bytes(tenant_id)
        if tenant_id != SHARED and used + image.counted_bytes > quota_bytes:
            raise self._over_quota(tenant_id, image)
        # Refused even if another tenant has the same files, since tenants must not notice that.
        if 0 < self._all_bytes < self.bytes_in_all() + image.counted_bytes:
            raise CapacityFull(
                "there is no room for another image on this server",
                hint="an operator can raise images_bytes, or remove what nobody needs",
                retry_after=60,
            )

    def _over_quota(self, tenant_id: str, image: Image) -> RateLimited:
        others = self._counted.get(tenant_id, {})
        used = sum(count for digest, count in others.items() if digest != image.digest)
        return RateLimited(
            f"the tenant's images count {used / MIB:.1f} MiB and this one "
            f"{image.counted_bytes / MIB:.1f} MiB, more than the quota of "
            f"{self._quota_bytes(tenant_id) / MIB:.1f} MiB",
            hint="remove runtimes and functions that have images; they are given back a while "
            "after that (image_grace_s)",
            retry_after=60,
        )

    def _note(self, image: TenantImage, *, is_gone: bool = False) -> None:
        row = dict(self._rows.get(image.digest, {}))
        row.pop(image.tenant_id, None)
        if not is_gone:
            row[image.tenant_id] = image.counted_bytes
        self._put(image.digest, row or None)
        if not is_gone:
            self._used_at[image.tenant_id, image.digest] = self._clock.now()

    def _forget(self, tenant_id: str, digest: str) -> None:
        self._used_at.pop((tenant_id, digest), None)
        held = self._counted[tenant_id]
        held.pop(digest, None)
        if not held:
            del self._counted[tenant_id]
