"""Tasks that end with the object that owns them."""

import asyncio

import pytest

from quiltfn.base.task_group import TaskGroup


async def fails() -> None:
    raise ValueError("no")


async def test_all_are_cancelled_and_over_when_it_closes() -> None:
    """A task that continued would use what its object has closed."""
    group, ended = TaskGroup(), list[str]()

    async def lasts(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    for name in ("a", "b"):
        group.spawn(lasts(name))
    await asyncio.sleep(0)
    await group.aclose()
    assert (sorted(ended), len(group)) == (["a", "b"], 0)


async def test_joining_waits_and_cancels_nothing() -> None:
    group, ended = TaskGroup(), list[str]()

    async def ends() -> None:
        await asyncio.sleep(0.01)
        ended.append("x")

    task = group.spawn(ends())
    await group.join()
    assert (ended, task.done(), list(group)) == (["x"], True, [])


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_failure_is_told_or_left_to_the_event_loop(*, is_told: bool) -> None:
    failures = list[BaseException]()
    reported = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    group = TaskGroup(failures.append if is_told else None)
    group.spawn(fails())
    await group.join()
    await asyncio.sleep(0)  # lets the callbacks of the task run
    del group
    assert [str(one) for one in failures] == (["no"] if is_told else [])
    assert bool(reported) is not is_told
