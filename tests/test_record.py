"""Records are frozen dataclasses in all that can be seen of them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from edgeae.bundle.record import record


@record(frozen=True)
class Made:
    """Declared as a record."""

    name: str
    size: int = 2
    parts: tuple[int, ...] = ()
    kept: dict[str, int] = field(default_factory=dict, metadata={"doc": "what is kept"})
    hidden: str = field(default="", repr=False)

    @property
    def total(self) -> int:
        return self.size + sum(self.parts)


@dataclass(frozen=True)
class Wanted:
    """Declared as a dataclass."""

    name: str
    size: int = 2
    parts: tuple[int, ...] = ()
    kept: dict[str, int] = field(default_factory=dict, metadata={"doc": "what is kept"})
    hidden: str = field(default="", repr=False)


@record(frozen=True)
class Checked:
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("too small")


@pytest.mark.parametrize(
    ("values", "named"),
    [(("a",), {}), (("a", 3, (1, 2)), {}), ((), {"name": "a", "hidden": "h"}), (("a", 3), {"kept": {"k": 1}})],
)
def test_a_record_is_like_a_dataclass(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    made, wanted = Made(*values, **named), Wanted(*values, **named)
    other: object = wanted
    assert dataclasses.asdict(made) == dataclasses.asdict(wanted)
    assert repr(made) == repr(wanted).replace("Wanted", "Made")
    assert made == Made(*values, **named) and made != other and made != Made("other")
    assert made == copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))
    assert dataclasses.replace(made, size=7) == Made(**{**dataclasses.asdict(made), "size": 7})
    assert [f.name for f in dataclasses.fields(Made)] == [f.name for f in dataclasses.fields(Wanted)]


def test_defaults_belong_to_one_record_each() -> None:
    assert Made("a").kept is not Made("a").kept
    assert Made("a", parts=(3, 4)).total == 9


def test_a_record_is_frozen_and_has_a_hash() -> None:
    made = Made("a")
    with pytest.raises(FrozenInstanceError, match="size"):
        made.size = 3  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="size"):
        del made.size
    assert len({Checked(1), Checked(1), Checked(2)}) == 2


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), (("a", 1, (), {}, "", "more"), {}), (("a",), {"name": "b"}), (("a",), {"nam": "b"})]
)
def test_wrong_arguments_are_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    for kind in (Made, Wanted):
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_what_a_class_checks_is_checked() -> None:
    assert Checked(1).size == 1
    with pytest.raises(ValueError, match="too small"):
        Checked(-1)
