import pytest

from common.errors import as_flag, exits_on_mistake


@pytest.mark.parametrize("mistake", [ValueError("a: must be b"), FileNotFoundError("a: is not there")])
def test_a_users_mistake_ends_in_one_sentence(mistake):
    @exits_on_mistake
    def fail() -> None:
        raise mistake

    with pytest.raises(SystemExit, match=r"^error: a: ") as stop:
        fail()
    assert stop.value.__cause__ is mistake


def test_our_own_mistake_stays_what_it_is():
    with pytest.raises(ZeroDivisionError):
        exits_on_mistake(lambda: 1 / 0)()
    assert exits_on_mistake(lambda x: x + 1)(1) == 2


def test_flags_are_read_as_they_are_meant():
    assert [as_flag(value, "x") for value in (True, False, "true", "false", "False")] == [
        True,
        False,
        True,
        False,
        False,
    ]
    for value in ("no", "maybe", "", 1, None):
        with pytest.raises(ValueError, match="x: must be true or false, got"):
            as_flag(value, "x")
