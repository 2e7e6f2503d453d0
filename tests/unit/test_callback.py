"""Callbacks: accepted URLs, secrets and addresses, and their signatures."""

from __future__ import annotations

import ipaddress
import re

import pytest

from promises import promise
from quiltfn.base.setting_files import BadSetting
from quiltfn.launcher.egress_rules import DENIED_V4, DENIED_V6
from quiltfn.model import callback
from quiltfn.model.callback import check_secret, check_url, is_public, may_be_called
from quiltfn.model.errors import Unprocessable
from quiltfn.settings import Settings


def ranges_of(text: str) -> list[callback.AddressRange]:
    return Settings(callback_networks=text).callback_ranges()


# From the example of the Standard Webhooks specification.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


PLAIN_URLS = """
https://example.com http://example.com:8080/hooks?a=1&b=%20 https://xn--bcher-kva.example/
https://[2606:4700::1111]:444/x
"""
OTHER_URLS = """
example.com/x //example.com/x ftp://example.com/ file:///etc/passwd gopher://example.com/ https://
https:///path https://user@example.com/ https://user:s3cret@example.com/ https://@example.com/
https://example.com\\@evil.example/ https://example.com:0/ https://example.com:65536/
https://example.com:x/ https://[::1/ https://ex%61mple.com/ https://example.com/#part
https://bücher.example/ https://example.com/*** https://example.com/hook?***
"""


@pytest.mark.parametrize("url", [*PLAIN_URLS.split(), "https://example.com/" + "a" * 2028])
def test_a_plain_url_is_taken(url: str) -> None:
    check_url(url, "on_success.url")


@promise("A80")
@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            *OTHER_URLS.split(),
            "https://example.com/a b",
            "https://example.com/\r\nx-injected: 1",
        ),
        "https://example.com/" + "a" * 2029,
    ],
)
def test_any_other_url_is_refused_by_its_field_and_not_repeated(url: str) -> None:
    with pytest.raises(Unprocessable, match=re.escape("on_success.url")) as refused:
        check_url(url, "on_success.url")
    assert "s3cret" not in str(refused.value) + str(refused.value.details)


@pytest.mark.parametrize(
    "secret",
    ["", SECRET.removeprefix("whsec_"), "whsec_***", "whsec_c2hvcnQ=", SECRET + "=", "***"],
)
def test_a_secret_that_cannot_sign_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(Unprocessable, match=re.escape("on_failure.secret")) as refused:
        check_secret(secret, "on_failure.secret")
    assert refused.value.details is not None
    assert not secret or refused.value.details["received"] != secret


@promise("A48")
def test_the_example_of_the_specification_is_signed_as_there() -> None:
    check_secret(SECRET, "secret")
    body = b'{"test": 2432232314}'
    headers = callback.signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNED,
    }
    other = callback.signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265331, body)
    assert other["webhook-signature"] != SIGNED


PUBLIC = ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001::200e"]
NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 192.0.0.8
192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:1.1.1.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1
64:ff9b::101:101 64:ff9b:1::7f00:1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:101:101::1 3fff::1
5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%2 fec0::1 ff02::1 ff0e::1
"""


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_called(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("denied", [*DENIED_V4, *DENIED_V6])
def test_where_sandboxes_may_not_go_callbacks_do_not_go_either(denied: str) -> None:
    network = ipaddress.ip_network(denied)
    for at in (0, network.num_addresses // 2, network.num_addresses - 1):
        assert not is_public(network[at]), network[at]


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_no_other_address_may_be_called(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not may_be_called(ipaddress.ip_address(address), ranges_of("203.0.112.0/24"))


def test_an_operator_may_allow_ranges() -> None:
    allowed = ranges_of("127.0.0.0/8, fd00::/8")
    addresses = ("127.0.0.1", "fd00::1", "10.0.0.1", "::ffff:127.0.0.1", "::1")
    called = [one for one in addresses if may_be_called(ipaddress.ip_address(one), allowed)]
    assert called == ["127.0.0.1", "fd00::1"]


@pytest.mark.parametrize("text", ["10.0.0.1/8", "localhost", "10.0.0.0/33", "10.0.0.0/8;::1"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="such as 10\\.0\\.0\\.0/8"):
        ranges_of(text)
    assert ranges_of(" ") == []
