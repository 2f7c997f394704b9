"""mail.ids: the text of ids against digits taken off one by one, and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postroika.mail.ids import id_text, parse_id

IDS = st.integers(min_value=0, max_value=2**64 - 1)


def by_digits(number: int) -> str:
    digits = []
    for _ in range(13):
        number, digit = divmod(number, 32)
        digits.append("0123456789abcdefghjkmnpqrstvwxyz"[digit])
    return "".join(reversed(digits))


@given(number=IDS)
def test_text_has_the_digits_of_the_number_and_can_be_read_back(number: int) -> None:
    assert id_text(number) == by_digits(number)
    assert parse_id(id_text(number).upper()) == number


@given(one=IDS, other=IDS)
def test_order_of_texts_is_that_of_the_numbers(one: int, other: int) -> None:
    assert (id_text(one) < id_text(other)) == (one < other)
