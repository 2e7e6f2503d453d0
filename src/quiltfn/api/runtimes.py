"""The routes over runtimes: what each does, parse being done: call a verb, render."""

from quiltfn.api import runtime_schema as schema
from quiltfn.api.route import Answer, Asked
from quiltfn.model.access import Scope
from quiltfn.model.image import Archive


async def list_runtimes(asked: Asked) -> Answer:
    """List the runtimes that a function can name, the server's own first."""
    shown = [_answer(asked, one.name) for one in asked.house.runtimes.all()]
    return Answer(value=schema.RuntimeList(runtimes=shown))


async def get_runtime(asked: Asked) -> Answer:
    """Show what a runtime's name stands for now."""
    return Answer(value=_answer(asked, asked.path["name"]))


async def add_runtime(asked: Asked) -> Answer:
    """Add a runtime, or give its name to another one. Existing versions of functions go on with
    what they were made with; the next update of a function takes what the name stands for then.
    The same runtime again answers 200 with what is there.
    """
    runtime, is_new = await asked.house.runtimes.add(asked.body.wanted())
    return Answer(
        value=_answer(asked, runtime.name), status=201 if is_new else 200, object_id=runtime.name
    )


async def remove_runtime(asked: Asked) -> Answer:
    """Remove a runtime: new versions cannot name it any more, existing ones go on with it."""
    await asked.house.runtimes.remove(asked.path["name"])
    return Answer(status=204)


async def upload_image(asked: Asked) -> Answer:
    """Upload the files that a runtime shows at /app, as one tar archive, plain or gzipped. The
    digest names them in a runtime to be added; the same files have the same digest however they
    were packed, and answer 200 where they are there already. An image that nothing names is
    removed after a while.
    """
    kind = asked.headers["content-type"].partition(";")[0].strip().lower()
    image = await asked.house.images.take(Archive(kind), asked.body)
    return Answer(
        value=schema.image_answer(image),
        status=201 if image.is_new else 200,
        object_id=image.digest,
    )


def _answer(asked: Asked, name: str) -> schema.RuntimeAnswer:
    show = asked.caller.scope.includes(Scope.WRITE)
    return schema.runtime_answer(asked.house.runtimes.get(name), show=show)
