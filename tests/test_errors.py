"""What a caller is told of an error."""

import pytest

from serving.errors import LONGEST, InvalidInput


@pytest.mark.parametrize(
    ("message", "told"), [("short", "short"), ("x" * LONGEST, "x" * LONGEST), ("x" * 10**6, None)]
)
def test_a_message_does_not_repeat_all_that_was_sent(message: str, told: str | None) -> None:
    assert str(InvalidInput(message)) == (told or "x" * LONGEST + "…")
