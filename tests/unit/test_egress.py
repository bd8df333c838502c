"""Where this server may connect: every way to write an address of its own network is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.security.egress import Egress, Refused, is_public, read_allowed, read_url

PUBLIC = Egress()
FOR_DEVELOPMENT = Egress(hosts=frozenset({"hooks"}), networks=read_allowed(["127.0.0.1/32", "::1"])[1])


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("https://hook.test.example/a?b=c#d", "https://hook.test.example:443", "/a?b=c"),
        ("HTTPS://Hook.Example", "https://hook.example:443", "/"),
        ("https://hook.example.:8443?x", "https://hook.example:8443", "/?x"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example:443", "/"),
        ("https://_a-b.c1.example/%20", "https://_a-b.c1.example:443", "/%20"),
        ("https://8.8.8.8/", "https://8.8.8.8:443", "/"),
        ("https://[2606:4700:4700::1111]/", "https://[2606:4700:4700::1111]:443", "/"),
    ],
)
def test_what_is_public_is_asked(url: str, origin: str, path: str) -> None:
    target = PUBLIC.check_url(url)
    assert (target.origin, target.path) == (origin, path)


@pytest.mark.parametrize(
    "url",
    [
        # no https, or no URL
        "http://hook.example",
        "ftp://hook.example",
        "file:///etc/passwd",
        "gopher://hook.example:443/x",
        "javascript:alert(1)",
        "//hook.example",
        "hook.example",
        "https:hook.example",
        "https:/hook.example",
        "https://",
        "https:///x",
        "https://?x",
        "",
        # somebody in it, or who seems to be
        "https://user@hook.example",
        "https://user:pass@hook.example",
        "https://@hook.example",
        "https://hook.example:443@127.0.0.1",
        "https://hook.example%40127.0.0.1",
        "https://hook.example\\@127.0.0.1",
        "https://hook.example\\.127.0.0.1",
        "https:\\\\127.0.0.1",
        "https://hook.example\t/",
        "https://hook.example /",
        "https://hook.exa\nmple/",
        "https://hook.example/\r\nHost: x",
        "https://hook.example/\x00",
        # ports
        "https://hook.example:80",
        "https://hook.example:22",
        "https://hook.example:0",
        "https://hook.example:65536",
        "https://hook.example:-1",
        "https://hook.example:",
        "https://hook.example:443:443",
        "https://hook.example:4 43",
        "https://hook.example:٤٤٣",
        # names
        "https://localhost",
        "https://LOCALHOST.",
        "https://a.localhost",
        "https://printer.local",
        "https://metadata.google.internal",
        "https://metadata",
        "https://postgres",
        "https://a..example",
        "https://.example",
        "https://-a.example",
        "https://a-.example",
        "https://hook%2eexample",
        "https://[hook.example]",
        "https://bücher.example",
        "https://hook。example",
        f"https://{'a' * 64}.example",
        f"https://{'a.' * 130}example",
        # IPv4, as programs read it
        "https://127.0.0.1",
        "https://127.0.0.1.",
        "https://127.0.0.1..",
        "https://127.1",
        "https://127.0.1",
        "https://0",
        "https://0.0.0.0",
        "https://2130706433",
        "https://2130706433.",
        "https://0x7f000001",
        "https://0X7F.0.0.1",
        "https://0x7f.1",
        "https://017700000001",
        "https://0177.0.0.1",
        "https://0177.0.0.01",
        "https://8.8.8.08",
        "https://8.8.8.0x8",
        "https://134744072",
        "https://1.2.3.4.5",
        "https://256.256.256.256",
        "https://a.0x7f",
        "https://0x",
        "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11",
        "https://①②⑦.0.0.1",
        "https://127。0。0。1",
        "https://10.0.0.1",
        "https://100.64.0.1",
        "https://100.100.100.200",
        "https://169.254.169.254",
        "https://168.63.129.16",
        "https://172.16.0.1",
        "https://172.31.255.255",
        "https://192.0.0.192",
        "https://192.0.2.1",
        "https://192.88.99.1",
        "https://192.168.0.1",
        "https://198.18.0.1",
        "https://198.51.100.1",
        "https://203.0.113.1",
        "https://224.0.0.1",
        "https://240.0.0.1",
        "https://255.255.255.255",
        # IPv6, also with an IPv4 address inside
        "https://[::]",
        "https://[::1]",
        "https://[0:0:0:0:0:0:0:1]",
        "https://[::1%25lo]",
        "https://[fe80::1]",
        "https://[fe80::1%25eth0]",
        "https://[fe80::1%eth0]",
        "https://[fec0::1]",
        "https://[fc00::1]",
        "https://[fd00:ec2::254]",
        "https://[ff02::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[::ffff:7f00:1]",
        "https://[::ffff:8.8.8.8]",
        "https://[::127.0.0.1]",
        "https://[::ffff:0:127.0.0.1]",
        "https://[64:ff9b::127.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://[64:ff9b:1::7f00:1]",
        "https://[2002:7f00:1::]",
        "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "https://[2001:db8::1]",
        "https://[2001:2::1]",
        "https://[3fff::1]",
        "https://[100::1]",
        "https://[5f00::1]",
        "https://[fe80::5efe:127.0.0.1]",
        "https://[v1.x]",
        "https://[::1",
        "https://::1",
        "https://[::1]x",
        "https://[1:2:3:4:5:6:7:8:9]",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(Refused, match=r"^must "):
        PUBLIC.check_url(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1234/x", "http://[::1]:8080/", "http://hooks:9000/", "https://hooks"]
)
def test_what_is_allowed_by_name_is_asked_whatever_it_is(url: str) -> None:
    assert FOR_DEVELOPMENT.check_url(url).host in ("127.0.0.1", "::1", "hooks")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.2:1234/x",
        "http://hook.example",
        "https://hooks2",
        "https://127.1",
        "https://0x7f000001",
    ],
)
def test_an_exception_is_for_nothing_else(url: str) -> None:
    with pytest.raises(Refused):
        FOR_DEVELOPMENT.check_url(url)


def test_a_name_is_judged_by_what_it_resolves_to() -> None:
    with pytest.raises(Refused):
        PUBLIC.check_address("hook.example", ip_address("10.0.0.1"))
    PUBLIC.check_address("hook.example", ip_address("8.8.8.8"))
    FOR_DEVELOPMENT.check_address("hooks", ip_address("10.0.0.1"))
    FOR_DEVELOPMENT.check_address("hook.example", ip_address("127.0.0.1"))
    with pytest.raises(Refused):
        FOR_DEVELOPMENT.check_address("hook.example", ip_address("127.0.0.2"))


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "a b", "http://x", "*"])
def test_an_exception_that_means_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        read_allowed([entry])


# The standard library's own tables are the second opinion: whatever it holds for not public, we do too.


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6) | st.integers(0, 2**32 - 1).map(IPv4Address))
@example(ip_address("::ffff:10.0.0.1"))
@example(ip_address("64:ff9b::a00:1"))
def test_nothing_is_public_that_the_standard_library_holds_for_private(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(address):
        assert address.is_global
        special = (address.is_multicast, address.is_reserved, address.is_loopback, address.is_link_local)
        assert not any(special)
        mapped = [getattr(address, name, None) for name in ("ipv4_mapped", "sixtofour", "teredo")]
        assert mapped == [None] * 3


@given(st.ip_addresses(v=4))
def test_what_the_standard_library_holds_for_global_is_public_but_for_a_few(address: IPv4Address) -> None:
    if address.is_global and not address.is_multicast and not is_public(address):
        assert str(address).startswith(("192.", "168.63.129.16"))


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.ip_addresses(v=4).map(lambda address: str(int(address))),
    st.ip_addresses(v=4).map(lambda address: hex(int(address))),
    st.ip_addresses(v=4).map(lambda address: f"0{int(address):o}"),
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("0123456789abcdefx.:[]%@\\/?#-_", max_size=16),
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
)


@given(hosts, st.sampled_from(["", ":443", ":8443", ":80", ":"]), st.text(max_size=8))
def test_a_random_address_is_refused_or_read_as_the_connection_will_take_it(
    host: str, port: str, rest: str
) -> None:
    """Whatever passes has a host that is spelled canonically, so that no resolver can take it for another one."""
    try:
        target = PUBLIC.check_url(f"https://{host}{port}/{rest}")
    except Refused:
        return
    try:
        address = ip_address(target.host)
    except ValueError:
        assert not target.host.replace(".", "").isdigit()
        assert "." in target.host
    else:
        assert str(address) == target.host
        assert address.is_global
    assert target.path.isascii()
    assert read_url(f"{target.origin}{target.path}") == target
