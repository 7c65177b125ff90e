"""Where a request comes from: forwarded addresses, read from the right, as far as hops are known."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hormesis import ConfigurationError
from hormesis.inbound.origin import AddressHeader, Origin, Trust, network, networks


def trust(
    trusted: tuple[str, ...] = (), proxies: tuple[str, ...] = (), header: AddressHeader | None = "x-forwarded-for"
) -> Trust:
    return Trust(trusted=networks(trusted, "trusted"), proxies=networks(proxies, "proxies"), header=header)


def test_a_peer_that_nobody_knows_is_the_client_whatever_it_writes() -> None:
    """Who is not known is not believed in whom it names."""
    origin = trust(("10.0.0.0/8",)).origin("198.51.100.1", "10.0.0.1, 203.0.113.9")
    assert origin == Origin("198.51.100.1", "198.51.100.1", ipaddress.ip_address("198.51.100.1"), False)


def test_the_first_unknown_hop_from_the_right_is_the_client() -> None:
    """What stands left of it anybody can have written."""
    found = trust(("10.0.0.0/8",)).origin("10.0.0.7", "1.1.1.1, 203.0.113.9, 10.0.0.3")
    assert found.address == "203.0.113.9"


def test_where_all_hops_are_known_the_leftmost_is_the_client() -> None:
    """A request of an inner service comes from that service."""
    assert trust(("10.0.0.0/8",)).origin("10.0.0.7", "10.0.0.1, 10.0.0.2").address == "10.0.0.1"


@pytest.mark.parametrize(
    "nonsense", ["unknown", "_hidden", "", "999.1.1.1", "1.2.3", "x" * 5000, "::zz", "\x00", "[::1"]
)
def test_nonsense_ends_the_way(nonsense: str) -> None:
    """Who passed on what is no address is as far as anybody can see."""
    assert trust(("10.0.0.0/8",)).origin("10.0.0.7", f"203.0.113.9, {nonsense}").address == "10.0.0.7"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9\t", "203.0.113.9"),
    ],
)
def test_addresses_are_read_as_proxies_write_them(written: str, address: str) -> None:
    """Ports, brackets and mapped addresses say the same thing in other words."""
    assert trust(("10.0.0.0/8",)).origin("10.0.0.7", written).address == address


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="[2001:db8::1]:4711";proto=https;by=10.0.0.1', "2001:db8::1"),
        ("proto=http; for=203.0.113.9 ;by=10.0.0.1", "203.0.113.9"),
        ("for=192.0.2.1, for=203.0.113.9", "203.0.113.9"),
        ('for = " 203.0.113.9 " ;by=10.0.0.1', "203.0.113.9"),
        ('for="203.0.113.9', "10.0.0.7"),
        ("for=", "10.0.0.7"),
        ("for=_hidden", "10.0.0.7"),
        ("by=203.0.113.9", "10.0.0.7"),
    ],
)
def test_forwarded_is_read_too(written: str, address: str) -> None:
    """The header of RFC 7239, if that is the one that the hops write."""
    assert trust(("10.0.0.0/8",), header="forwarded").origin("10.0.0.7", written).address == address


def test_a_customer_with_ipv6_is_a_network() -> None:
    """Whoever has 2^64 addresses is still one client."""
    first = trust().origin("2001:db8:1:2::1", None)
    second = trust().origin("2001:db8:1:2:ffff::9", None)
    assert first.key == second.key == "2001:db8:1:2::/64"
    assert first.address != second.address


def test_a_way_is_followed_for_so_many_hops() -> None:
    """A list of a million hops is followed for sixteen."""
    found = trust(("10.0.0.0/8",)).origin("10.0.0.7", "203.0.113.9" + ", 10.0.0.1" * 1_000_000)
    assert found.address == "10.0.0.1"


def test_who_is_trusted_is_believed_and_a_proxy_in_addresses_only() -> None:
    """A balancer at the edge passes on the headers of strangers; what an inner service says through it is heard."""
    hops = trust(trusted=("10.1.0.0/16",), proxies=("10.2.0.0/16",))
    assert hops.origin("10.1.0.1", None).believed
    assert hops.origin("10.1.0.1", "203.0.113.9").believed
    assert not hops.origin("10.2.0.1", "203.0.113.9").believed
    assert hops.origin("10.2.0.1", "10.1.0.9") == hops.origin("10.1.0.9", None)
    assert not hops.origin("10.2.0.1", None).believed


def test_a_socket_of_this_machine_can_be_trusted() -> None:
    """A peer without an address counts as `unix`."""
    assert trust(("unix",)).origin("", "203.0.113.9") == trust().origin("203.0.113.9", None)._replace(believed=True)
    assert trust().origin("", "203.0.113.9") == Origin("", "unix", None, False)


def test_without_a_header_the_peer_is_the_client() -> None:
    """A service that is told to ask the socket reads no header."""
    peer = trust(("10.0.0.0/8",), header=None)
    assert peer.header is None
    assert peer.origin("10.0.0.7", "203.0.113.9").address == "10.0.0.7"


def test_who_believes_nobody_reads_no_header() -> None:
    """Where no hop is known there is nothing to look for."""
    assert trust().header is None
    assert trust(("unix",)).header == "x-forwarded-for"


def test_a_million_addresses_are_not_remembered() -> None:
    """What is remembered of addresses is bounded."""
    hops = trust(("10.0.0.0/8",))
    for number in range(10_000):
        hops.origin("10.0.0.7", str(ipaddress.ip_address(0x0B000000 + number)))
    assert len(hops._known) <= 4096


@pytest.mark.parametrize("written", ['for={}"', 'for="{}x', "for=x{};", "{}for", ";{}", "for{}=x", '"{}', 'for="x"{}y'])
def test_blanks_in_any_number_are_read_once(written: str) -> None:
    """A header of 64 kB, which servers let pass, is read in the time that it takes to see it."""
    believed = trust(("10.0.0.0/8",), header="forwarded")
    began = time.perf_counter()
    assert believed.origin("10.0.0.7", written.format(" " * 60_000)).address == "10.0.0.7"
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("wrong", ["10.0.0.0/33", "nowhere", 5, None, "10.0.0.1/8"])
def test_a_network_that_is_none_is_refused(wrong: object) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=r"trusted is .*; it takes a network such as '10\.0\.0\.0/8'"):
        network(wrong, "trusted")


@given(peer=st.text(max_size=100), told=st.none() | st.text(max_size=500))
@example(peer="10.0.0.7", told="fe80::1%eth0")
@example(peer="fe80::1%" + "x" * 90, told=None)
def test_nothing_that_is_written_does_harm(peer: str, told: str | None) -> None:
    """Whatever stands in a header, there is an origin, and its key is short."""
    for header in ("x-forwarded-for", "forwarded"):
        origin = trust(("10.0.0.0/8", "unix"), header=header).origin(peer, told)
        assert len(origin.key) <= 64
