"""Groups the settings that are limits, one group for each part that enforces them."""

from quiltfn.api.http.budgets import WAITING, BodyBudget, Budgets
from quiltfn.api.http.route import ApiLimits
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.images import ImageLimits
from quiltfn.model.retention import VersionLimits
from quiltfn.model.runtime import Room
from quiltfn.model.tenant_quota import TenantLimits
from quiltfn.settings import Settings


def tenant_limits(chosen: Settings) -> TenantLimits:
    return TenantLimits(
        calls_in_flight=chosen.tenant_calls_in_flight,
        calls_per_second=chosen.tenant_calls_per_s,
        functions=chosen.tenant_functions,
        image_bytes=chosen.tenant_image_bytes,
        gb_seconds_per_day=chosen.tenant_gb_seconds_per_day,
    )


def budgets(chosen: Settings) -> Budgets:
    # The streams of all tenants together use at most half of the connections.
    streams = StreamSlots(chosen.tenant_streams, max(1, chosen.connections_max // 2))
    waits = StreamSlots(max(1, chosen.connections_max // 4), streams.of_all, WAITING)
    return Budgets(BodyBudget(chosen.bodies_max_bytes), streams=streams, waits=waits)


def sandbox_room(chosen: Settings) -> Room:
    """The operator's limits for a sandbox."""
    return Room(
        process_limit=chosen.sandbox_processes_max,
        tmp_limit_mb=chosen.sandbox_tmp_max_mib,
        file_limit_mb=chosen.sandbox_file_max_mib,
        open_files_limit=chosen.sandbox_open_files_max,
    )


def image_limits(chosen: Settings) -> ImageLimits:
    return ImageLimits(
        unpacked_max_bytes=chosen.image_max_bytes,
        files_max=chosen.image_files_max,
        unpack_max_s=chosen.image_unpack_s,
    )


def version_limits(chosen: Settings) -> VersionLimits:
    return VersionLimits(kept=chosen.versions_kept, tenant_bytes=chosen.tenant_version_bytes)


def api_limits(chosen: Settings) -> ApiLimits:
    return ApiLimits(
        body_max=chosen.body_max_bytes,
        invoke_body_max=chosen.invoke_body_max_bytes,
        server_body_max=chosen.server_body_max_bytes,
        image_max=chosen.image_upload_max_bytes,
        image_unpacked_max=chosen.image_max_bytes,
        image_files_max=chosen.image_files_max,
        stdout_max=chosen.stdout_max_bytes,
        stderr_max=chosen.stderr_max_bytes,
        timeout_max_s=chosen.timeout_max_s,
        body_timeout_s=chosen.body_timeout_s,
        page_max=chosen.page_max_bytes,
    )
