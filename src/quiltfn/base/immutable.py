"""Objects that are created with keyword arguments, like dataclasses; those of `Frozen` are
immutable.

`dataclasses` generates and compiles code for each class, which takes half a millisecond per class
at a start; importing it takes some five milliseconds. Creating objects of the classes here takes
longer, so they are for objects that are created rarely.
"""

from typing import Any, Self, dataclass_transform

NOTHING = object()


class _ByKeywords:
    """The attributes are the annotated names of the class and all bases; values in a class are
    defaults.
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
        """For subclasses: raises an error if values contradict each other."""

    def replace(self, **changes: Any) -> Self:
        """A copy with these changes."""
        return type(self)(**(vars(self) | changes))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"


@dataclass_transform(kw_only_default=True)
class ByKeywords(_ByKeywords):
    """Created with keyword arguments; its attributes may change. All objects share the defaults, so
    a default must not be a list or dictionary.
    """


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Frozen(_ByKeywords):
    """Created with keyword arguments; its attributes cannot be changed."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")
