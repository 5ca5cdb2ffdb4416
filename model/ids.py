"""One rule for external ids, from file to wire: type, length and characters.

Readers of logs hold it while they read, request bodies by their schema: what `recall prepare` accepts can be asked for.
7 and "7" are one id, whichever of them a catalogue holds: numbers of JavaScript lose digits above 2^53, so such clients
send and get strings.
"""

import re

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
MAX_CHARACTERS = 128  # of a string id; a history of 1,000 of them must fit into a request
CONTROL = r"[\x00-\x1f\x7f]"  # characters that no id holds
PATTERN = r"^[^\x00-\x1f\x7f]+$"
RULE = f"an id is a 64-bit integer or a string of 1 to {MAX_CHARACTERS} characters, none of them a control character"
# As text, an id of this form is the integer: "07", "+7" and "-0" are not.
_INTEGER = re.compile(r"-?[1-9][0-9]{0,18}|0")


def as_integer(text: str) -> int | None:
    """The 64-bit integer that a text is in plain form; None when it is another text."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if MIN_INTEGER <= value <= MAX_INTEGER else None


def other_form(external: int | str) -> int | str | None:
    """The same id in the other type: "7" of 7 and 7 of "7"; None of a text that is no plain integer, such as "07"."""
    return as_integer(external) if isinstance(external, str) else str(external)
