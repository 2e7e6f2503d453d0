"""`client.keys`: API keys."""

from quiltfn.sdk.methods import AnyClient, Group, Method, every, with_fields_of
from quiltfn.sdk.request import Flow, ask, delete, get, post, query, segment
from quiltfn.wire import CreatedKey, Key, KeyList, NewKey

BASE = "/api/keys"


@with_fields_of(NewKey)
def create_key(new: NewKey) -> Flow[CreatedKey]:
    """Create an API key. Only this result has the secret, in `key`."""
    return ask(post(BASE, CreatedKey, new))


def list_keys() -> Flow[list[Key]]:
    """All keys of the tenant, including revoked ones; operators see those of all tenants."""
    return every(
        lambda after: ask(get(f"{BASE}{query(cursor=after)}", KeyList)), lambda page: page.keys
    )


def revoke_key(key_id: str) -> Flow[None]:
    """Permanently revoke an API key."""
    return ask(delete(f"{BASE}/{segment(key_id)}"))


class Keys(Group[AnyClient]):
    """`client.keys`."""

    create = Method(create_key)
    list = Method(list_keys)
    revoke = Method(revoke_key)
