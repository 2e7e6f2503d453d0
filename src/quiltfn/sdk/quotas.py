"""`client.quotas`: the limits of tenants, which operators set."""

from quiltfn.sdk.methods import AnyClient, Group, Method, with_name_and_fields_of
from quiltfn.sdk.request import Flow, ask, delete, get, put, segment
from quiltfn.wire import NewQuota, Quota


def get_quota(tenant: str) -> Flow[Quota]:
    """The limits of a tenant, and its usage."""
    return ask(get(_path(tenant), Quota))


@with_name_and_fields_of(NewQuota)
def set_quota(tenant: str, quota: NewQuota) -> Flow[Quota]:
    """Replace all limits of a tenant. Omitted limits are those of the server's settings."""
    return ask(put(_path(tenant), Quota, quota))


def delete_quota(tenant: str) -> Flow[None]:
    """Reset a tenant to the limits of the server's settings."""
    return ask(delete(_path(tenant)))


def _path(tenant: str) -> str:
    return f"/api/tenants/{segment(tenant)}/quota"


class Quotas(Group[AnyClient]):
    """`client.quotas`."""

    get = Method(get_quota)
    set = Method(set_quota)
    delete = Method(delete_quota)
