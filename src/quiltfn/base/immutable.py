"""Immutable objects that are made by keywords. They are what frozen dataclasses are, without the
code that `dataclasses` writes and compiles for each class: half a millisecond of a start a class,
and some five more to load `dataclasses`. For what is made once: to make one takes longer."""

from typing import Any, Self, dataclass_transform

NOTHING = object()


class _ByKeywords:
    """Its attributes are the annotations of its class and of all bases, with what each is by
    default.
    """

    def __init__(self, **given: Any) -> None:
        bases = [base for base in reversed(type(self).__mro__) if base is not object]
        names = {name: None for base in bases for name in base.__annotations__}.keys()
        if not given.keys() <= names:
            raise TypeError(
                f"{type(self).__name__} has no {', '.join(sorted(given.keys() - names))}"
            )
        for name in names:
            value = given.get(name, getattr(type(self), name, NOTHING))
            if value is NOTHING:
                raise TypeError(f"{type(self).__name__} needs {name}")
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raises an error of the class's own for values that do not go together."""

    def replace(self, **changes: Any) -> Self:
        """The same with these changes."""
        return type(self)(**(vars(self) | changes))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


@dataclass_transform(kw_only_default=True)
class ByKeywords(_ByKeywords):
    """Made by keywords; its attributes may change. What each is by default is shared, so that no
    list or dictionary can be one.
    """


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Frozen(_ByKeywords):
    """Made by keywords; its attributes do not change."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")
