"""`record`: a frozen dataclass that takes a tenth of the time to declare.

`dataclasses.dataclass` writes and compiles six methods for each class, 0.3 ms in all, and a first score needs more than
thirty classes. Here the methods are there once, and read the names of the fields when they run.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

__all__ = ["record"]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: Literal[True]) -> Any:
        """Make a class what `dataclass(frozen=True)` makes of it; `fields`, `replace` and `asdict` take it for such.

        Args:
            frozen: Nothing else is offered; said so that it reads like a dataclass.

        Example:
            >>> @record(frozen=True)
            ... class Point:
            ...     x: int
            ...     y: float = 0.0
            >>> Point(3), Point(3) == Point(x=3, y=0.0)
            (Point(x=3, y=0.0), True)
        """
        return _record


def _record(cls: Any) -> Any:
    own = [name for name in _SHARED if name not in vars(cls)]
    cls.__doc__ = cls.__doc__ or cls.__name__  # else it becomes the signature, which takes a millisecond
    made = dataclass(init=False, repr=False, eq=False)(cls)
    for name in own:
        setattr(made, name, getattr(_Methods, name))
    return made


class _Methods:
    """What records share."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init__(self, *values: object, **named: object) -> None:
        known = self.__dataclass_fields__
        state = dict(zip(known, values, strict=False))
        if len(values) > len(known) or any(name in state or name not in known for name in named):
            raise TypeError(f"{type(self).__name__} takes {', '.join(known)}, each once")
        state.update(named)
        for name, field in known.items() if len(state) < len(known) else ():
            if name in state:
                continue
            if field.default is not MISSING:
                state[name] = field.default
            elif field.default_factory is not MISSING:
                state[name] = field.default_factory()
            else:
                raise TypeError(f"{type(self).__name__} needs {name}")
        self.__dict__.update(state)
        check = getattr(self, "__post_init__", None)
        if check is not None:
            check()

    def __repr__(self) -> str:
        shown = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr]
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return _values(self) == _values(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(_values(self))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


_SHARED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


def _values(made: Any) -> tuple[object, ...]:
    return tuple(getattr(made, name) for name in made.__dataclass_fields__)
