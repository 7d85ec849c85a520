import pytest

from kilter.core.access import allowed_host, allowed_origin, check_bind, check_token
from kilter.core.errors import Forbidden, Unauthorized


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1"])
def test_loopback_needs_no_token(host):
    check_bind(host, None)


@pytest.mark.parametrize("host", ["10.0.0.2", "::", "10.0.0.1", "example.org", "", "localhost.evil.org"])
def test_beyond_loopback_needs_one(host):
    with pytest.raises(Forbidden):
        check_bind(host, None)
    with pytest.raises(Forbidden):
        check_bind(host, "")
    check_bind(host, "secret")


@pytest.mark.parametrize("header", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:80", "::1"])
def test_a_loopback_server_answers_to_its_own_names(header):
    assert allowed_host(header, "127.0.0.1")


@pytest.mark.parametrize(
    "header", [None, "", "evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "evil.org:127.0.0.1", "10.0.0.1"]
)
def test_and_to_no_others(header):
    assert not allowed_host(header, "127.0.0.1")
    assert allowed_host(header, "10.0.0.1")


def test_an_origin_must_be_the_host_itself():
    assert allowed_origin(None, "localhost:80")
    assert allowed_origin("http://localhost:80", "localhost:80")
    for origin in (
        "null",
        "http://localhost:81",
        "http://evil.org",
        "file://localhost:80",
        "",
        "http://localhost:80.evil.org",
    ):
        assert not allowed_origin(origin, "localhost:80")
    assert not allowed_origin("http://a", None)


def test_tokens():
    check_token(None, None)
    check_token("Bearer s3cret", "s3cret")
    check_token("bearer s3cret", "s3cret")
    for header in (
        None,
        "",
        "s3cret",
        "Basic s3cret",
        "Bearer s3cre",
        "Bearer s3crets",
        "Bearer ' OR '1'='1",
        "Bearer \xff",
    ):
        with pytest.raises(Unauthorized):
            check_token(header, "s3cret")
