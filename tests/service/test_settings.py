"""Settings: options before the environment before defaults, and one sentence for the first that is wrong."""

import pytest

from service.errors import ConfigurationError
from service.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RECALL_{name.upper()}", raising=False)


def refused(**given):
    with pytest.raises(ConfigurationError) as error:
        load_settings(**given)
    return str(error.value)


def test_an_option_goes_before_the_environment_and_that_before_the_default(monkeypatch):
    default = Settings.model_fields["port"].default
    assert load_settings().port == default
    monkeypatch.setenv("RECALL_PORT", "9001")
    assert load_settings().port == 9001
    assert load_settings(port=9002).port == 9002


def test_an_option_that_was_not_given_hides_nothing(monkeypatch):
    monkeypatch.setenv("RECALL_PORT", "9001")
    assert load_settings(port=None).port == 9001


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"port": 70_000}, "setting port: "),
        ({"port": "http"}, "setting port: "),
        ({"request_timeout_ms": 0}, "setting request_timeout_ms: "),
        ({"exposure_sample": 1.5}, "setting exposure_sample: "),
        ({"cache_ttl_s": -1}, "setting cache_ttl_s: "),
        ({"log_level": "loud"}, "setting log_level: "),
    ],
)
def test_a_value_outside_its_bounds_names_its_setting(given, where):
    assert refused(**given).startswith(where)


@pytest.mark.parametrize("name", ["batch", "fallback", "interleaved", "rec-gpt", "1st", ""])
def test_a_name_that_means_something_else_is_no_arm(name, tmp_path):
    assert "arm names are words such as recgpt" in refused(arms={name: tmp_path})


def test_two_places_of_keys_are_one_too_many(tmp_path):
    sentence = refused(api_keys="x", api_keys_file=tmp_path / "keys")
    assert "API keys are in api_keys or in api_keys_file, not in both" in sentence


@pytest.mark.parametrize("name", ["qa_key", "admin_key"])
def test_an_old_key_beside_new_ones_is_refused_with_its_scope(name):
    assert f"{name} has no meaning beside API keys: give one of them the scope {name[:-4]}" in refused(
        api_keys="x", **{name: "secret"}
    )


def test_a_refusal_never_quotes_a_key():
    assert "secret" not in refused(api_keys="secret-1", qa_key="secret-2")


@pytest.mark.parametrize(
    ("given", "vectors", "events"),
    [
        ({}, False, False),
        ({"redis_url": "memory"}, True, True),
        ({"redis_url": "memory", "events_redis_url": "redis://x"}, True, False),
        ({"redis_url": "redis://x"}, False, False),
    ],
)
def test_memory_is_for_vectors_and_for_events_unless_those_have_a_redis(given, vectors, events):
    settings = load_settings(**given)
    assert (settings.uses_memory, settings.keeps_events_in_memory) == (vectors, events)


def test_secrets_are_not_printed():
    text = repr(load_settings(qa_key="secret"))
    assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "value", "whole"),
    [
        ("golden_days", 3, "golden_share"),
        ("golden_floor", 0.2, "golden_share"),
        ("shadow_share", 0.5, "shadow_arm"),
        ("traces_share", 0.5, "traces_url"),
        ("tls_client_ca", "ca.pem", "tls_cert"),
    ],
)
def test_a_part_of_what_is_off_is_refused_and_its_default_is_not(name, value, whole):
    assert f"{name} has no meaning without {whole}" in refused(**{name: value})
    load_settings(**{name: Settings.model_fields[name].default})


def test_every_setting_says_what_it_is():
    assert all(field.description for name, field in Settings.model_fields.items() if name != "arms")
