"""Which passwords the client refuses, each rule at its edge."""

import pytest

from chatty.client.weak_passwords import Weakness, WeakPassword, check_password, common_passwords, length_min


def weakness(password: str, name: str = "ann") -> Weakness | None:
    try:
        check_password(password, name=name)
    except WeakPassword as refused:
        return refused.reason
    return None


def test_the_error_says_why_and_never_which() -> None:
    with pytest.raises(WeakPassword, match=r"^choose another password: own name$"):
        check_password("annabell73", name="annabell")


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        ("tr7Kx!q", Weakness.TOO_SHORT),
        ("tr7Kx!qm", None),
        ("", Weakness.TOO_SHORT),
        # Seven letters, however many code points they are typed with.
        ("a\u0308o\u0308u\u0308kxqm", Weakness.TOO_SHORT),
        ("a\u0308o\u0308u\u0308kxqmz", None),
        ("xxxxxxxx", Weakness.ONE_CHARACTER),
        ("xXxXxXxX", Weakness.ONE_CHARACTER),
        ("xxxxxxxy", None),
        ("password1", Weakness.COMMON),
        ("PassWord1", Weakness.COMMON),
        ("password1x", None),
        ("contrase\u00f1a", Weakness.COMMON),
        ("contrasen\u0303a", Weakness.COMMON),
        ("12345678", Weakness.RUN),
        ("1234567x", None),
        ("87654321", Weakness.RUN),
        ("78901234", Weakness.RUN),
        ("hijklmno", Weakness.RUN),
        ("wxyzabcd", Weakness.RUN),
        ("lkjhgfds", Weakness.RUN),
        ("Qwertyui", Weakness.RUN),
        ("qwertzui", Weakness.RUN),
        ("azertyui", Weakness.RUN),
        ("4rfv5tgb", Weakness.RUN),
        ("wertcvbn567", Weakness.RUN),
        ("wertcvbn56", None),
        ("wertcvbn579", None),
    ],
)
def test_a_password_is_refused_by_the_rule_that_it_breaks(password: str, expected: Weakness | None) -> None:
    assert weakness(password) is expected


@pytest.mark.parametrize(
    ("name", "password", "is_refused"),
    [
        ("annabell", "annabell", True),
        ("annabell", "AnnaBell", True),
        ("annabell", "annabell73", True),
        ("annabell", "!anna-bell!", True),
        ("anna.bell", "annabell", True),
        ("ann.73.77", "ann.73.77", True),
        ("1977-1978", "1977-1978", True),
        ("1977-1978", "2950-3951", False),
        ("annabell", "annabells", False),
        ("ann", "annabell73", False),
    ],
)
def test_the_own_name_is_refused_also_with_digits_and_signs(name: str, password: str, is_refused: bool) -> None:
    assert weakness(password, name) is (Weakness.OWN_NAME if is_refused else None)


def test_the_list_holds_what_could_be_typed_and_no_shorter_rule_catches() -> None:
    listed = common_passwords()
    assert len(listed) >= 300
    assert all(len(one) >= length_min and one == one.casefold() for one in listed)
    assert {weakness(one) for one in listed} == {Weakness.COMMON}
