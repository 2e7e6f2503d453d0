"""The routes over runtimes: what each does, parse being done: call a verb, render."""

from quiltfn.api import parse
from quiltfn.api import runtime_schema as schema
from quiltfn.api.route import Answer, Asked
from quiltfn.model.access import Scope
from quiltfn.model.image import Archive
from quiltfn.runtimes import Named


async def list_runtimes(asked: Asked) -> Answer:
    """List the runtimes that the tenant's functions can name, the server's own first: its own and
    those that all tenants share.
    """
    shown = [_answer(asked, one) for one in asked.services.runtimes.all(asked.tenant_id)]
    return Answer(value=schema.RuntimeList(runtimes=shown))


async def get_runtime(asked: Asked) -> Answer:
    """Show what a runtime's name stands for now. The values of its environment are shown to keys
    that may write, those of a shared runtime to operators alone.
    """
    named = asked.services.runtimes.get(asked.tenant_id, asked.path["name"])
    return Answer(value=_answer(asked, named))


async def add_runtime(asked: Asked) -> Answer:
    """Add a runtime to the tenant, or give its name to another one; an operator adds one for all
    tenants with `shared`. Existing versions of functions go on with what they were made with; the
    next update of a function takes what the name stands for then. The same runtime again answers
    200 with what is there. The server's settings say what kinds, isolation and network tenants may
    use.
    """
    shared = asked.body.shared
    if shared:
        asked.caller.must_have(Scope.OPERATOR)
    named, is_new = await asked.services.runtimes.add(
        asked.tenant_id,
        asked.body.wanted(),
        shared=shared,
        is_operator=asked.caller.scope.includes(Scope.OPERATOR),
    )
    return Answer(
        value=_answer(asked, named),
        status=201 if is_new else 200,
        object_id=named.runtime.name,
    )


async def remove_runtime(asked: Asked) -> Answer:
    """Remove a runtime of the tenant, or, with `shared=true` and an operator's key, one that all
    tenants share: new versions cannot name it any more, existing ones go on with it.
    """
    shared = parse.boolean(asked.query.get("shared", "false"), "shared")
    if shared:
        asked.caller.must_have(Scope.OPERATOR)
    await asked.services.runtimes.remove(asked.tenant_id, asked.path["name"], shared=shared)
    return Answer(status=204)


async def upload_image(asked: Asked) -> Answer:
    """Upload the files that a runtime shows at /app, as one tar archive, plain or gzipped. The
    digest names them in a runtime of the tenant; the same files have the same digest however they
    were packed, and answer 200 where the tenant has them already. All images of a tenant together
    have a quota. One that nothing of the tenant names is given back after a while.
    """
    kind = asked.headers["content-type"].partition(";")[0].strip().lower()
    image = await asked.services.holdings.take(asked.tenant_id, Archive(kind), asked.body)
    return Answer(
        value=schema.image_answer(image),
        status=201 if image.is_new else 200,
        object_id=image.digest,
    )


def _answer(asked: Asked, named: Named) -> schema.RuntimeAnswer:
    show = asked.caller.scope.includes(Scope.OPERATOR if named.is_shared else Scope.WRITE)
    return schema.runtime_answer(named, show=show)
