"""Keys as text: made, read back, and refused without a word of what stands there."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.access.keys import Scope, digest_of, new_key, parse_keys
from service.errors import ConfigurationError

HASH = sha256(b"a key").hexdigest()
GOOD = f"feed recall,feedback sha256:{HASH} 500/s"


def test_a_new_key_is_read_back_from_its_line():
    secret, key = new_key("feed", ["feedback", "recall"], 500)
    assert key.line == f"feed recall,feedback sha256:{sha256(secret.encode()).hexdigest()} 500/s"
    assert parse_keys(key.line, "here") == {digest_of(secret.encode()): key}


def test_no_two_keys_are_alike_and_none_is_in_its_line():
    made = [new_key("feed", ["recall"]) for _ in range(50)]
    assert len({secret for secret, _ in made}) == 50
    assert all(secret not in key.line and len(secret) > 40 for secret, key in made)


@pytest.mark.parametrize("between", ["\n", ";", " ; ", "\r\n", "\n# a comment; with a semicolon\n\n"])
def test_lines_and_semicolons_part_keys(between):
    text = f"{GOOD}{between}ops admin,monitor sha256:{'0' * 64}  # of the team"
    feed, ops = parse_keys(text, "here").values()
    assert (feed.name, feed.scopes, feed.per_second) == ("feed", {Scope.RECALL, Scope.FEEDBACK}, 500.0)
    assert (ops.name, ops.scopes, ops.per_second) == ("ops", {Scope.ADMIN, Scope.MONITOR}, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "here: 0 keys"),
        ("# nothing", "here: 0 keys"),
        ("feed recall", "line 1: it is NAME SCOPES sha256:HASH"),
        (f"{GOOD} more", "line 1: it is NAME SCOPES sha256:HASH"),
        (f"\n\nfeed everything sha256:{HASH}", "line 3: scopes are recall, feedback, qa, admin, monitor"),
        (f"feed recall, sha256:{HASH}", "line 1: scopes are"),
        ("feed recall rk_S3CRET", "the hash and not the key"),
        (f"feed recall sha256:{HASH[:-1]}", "the hash and not the key"),
        (f"feed recall sha256:{HASH.upper()}", "the hash and not the key"),
        (f"a/b recall sha256:{HASH}", "a name is up to 64 letters"),
        (f"feed recall sha256:{HASH} 500", "a limit is a number above 0"),
        (f"feed recall sha256:{HASH} 0/s", "a limit is a number above 0"),
        (f"feed recall sha256:{HASH} nan/s", "a limit is a number above 0"),
        (f"feed recall sha256:{HASH} inf/s", "a limit is a number above 0"),
        (f"{GOOD}\nother qa sha256:{HASH}", "line 2: its name, or its key, stands in a line before"),
        (f"{GOOD}\nfeed qa sha256:{'0' * 64}", "line 2: its name, or its key, stands in a line before"),
    ],
)
def test_what_is_no_key_is_refused_with_its_place_and_not_quoted(text, reason):
    with pytest.raises(ConfigurationError, match=reason) as refused:
        parse_keys(text, "here")
    assert "S3CRET" not in str(refused.value)
    assert HASH[:-1].lower() not in str(refused.value).lower()


words = st.sampled_from([GOOD, "feed", "recall", "qa,admin", f"sha256:{HASH}", "500/s", ";", "#", "\n", " ", "1e309/s"])


@given(st.lists(words | st.text(max_size=8), max_size=12).map("".join))
@settings(max_examples=300)
def test_any_text_is_keys_or_refused(text):
    try:
        keys = parse_keys(text, "here")
    except ConfigurationError:
        return
    again = parse_keys("\n".join(key.line for key in keys.values()), "here")
    assert again == keys


def test_the_command_prints_a_key_and_the_line_of_its_hash(run_recall):
    made = run_recall("keys", "new", "feed", "--scope", "recall", "--scope", "qa", "--rate", "2.5")
    secret, line = made.last_line["key"], made.last_line["line"]
    assert made.status == 0
    assert line == f"feed recall,qa sha256:{sha256(secret.encode()).hexdigest()} 2.5/s"
    assert secret not in made.err


@pytest.mark.parametrize("bad", [("a b", "--scope", "recall"), ("feed", "--scope", "all"), ("feed",)])
def test_the_command_refuses_what_no_file_may_hold(run_recall, bad):
    refused = run_recall("keys", "new", *bad)
    assert (refused.status, refused.out) == (2, "")
