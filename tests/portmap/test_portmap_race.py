"""The race of three protocols against a router in memory, in virtual time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portmap.fake_router import CLIENT, GATEWAY, PORT, WAN, Router, World

from p2p.core.address import Address
from p2p.core.portmap.events import BehindAnotherNat, Lost, Mapped, NoMapper, Protocol
from p2p.core.portmap.race import ROUND

EACH = pytest.mark.parametrize("protocol", Protocol, ids=lambda protocol: protocol.value)
OPEN = Address(WAN, PORT)
PRIVATE = "100.64.3.4"


def only(protocol: Protocol, **knobs: object) -> Router:
    return Router(offers={protocol}, **knobs)  # type: ignore[arg-type]


def reasons(world: World) -> dict[Protocol, str]:
    verdict = world.said[-1]
    assert isinstance(verdict, NoMapper), world.said
    return dict(verdict.reasons)


# What works


@EACH
def test_each_protocol_alone_maps_and_releases(protocol: Protocol) -> None:
    world = World(only(protocol)).start()
    assert world.said == [Mapped(OPEN, protocol, 3600)]
    assert world.events[0][0] < 0.1
    assert world.router.mappings == {PORT: (CLIENT, PORT, pytest.approx(3600, abs=1))}
    world.close()
    assert world.router.mappings == {}
    assert world.machine.is_closed
    assert world.machine.poll_timeout() is None


def test_where_all_are_spoken_one_maps_and_the_others_leave_it_alone() -> None:
    world = World(Router()).start()
    assert world.said == [Mapped(OPEN, Protocol.PCP, 3600)]
    assert [word for word in world.router.asked if "map" in word.lower()] == ["PCP map"]
    assert not world.machine.is_searching


@pytest.mark.parametrize(("refused", "winner"), [((Protocol.PCP,), Protocol.NAT_PMP),
                                                 ((Protocol.PCP, Protocol.NAT_PMP), Protocol.UPNP)])  # fmt: skip
def test_who_is_refused_makes_way_for_the_next(refused: tuple[Protocol, ...], winner: Protocol) -> None:
    world = World(Router(refuse=dict.fromkeys(refused, 2))).start()
    assert world.said == [Mapped(OPEN, winner, 3600)]


def test_a_port_that_another_machine_has_gives_way() -> None:
    for protocol in Protocol:
        router = only(protocol, mappings={PORT: ("192.168.1.99", PORT, None)})
        (mapped,) = World(router).start().said
        assert isinstance(mapped, Mapped)
        assert mapped.external.port != PORT
        assert router.mappings[mapped.external.port][:2] == (CLIENT, PORT)
        assert router.mappings[PORT][0] == "192.168.1.99"


def test_of_several_connections_the_one_with_a_public_address_is_mapped() -> None:
    services = "".join(
        f"<service><serviceType>urn:schemas-upnp-org:service:WAN{kind}Connection:1</serviceType>"
        f"<controlURL>/{kind}</controlURL></service>"
        for kind in ("PPP", "IP")
    )
    router = only(Protocol.UPNP, description=f"<root>{services}</root>".encode(), wan_by_path={"/PPP": "10.0.0.9"})
    world = World(router).start()
    assert world.said == [Mapped(OPEN, Protocol.UPNP, 3600)]
    assert [b"POST /IP " in opened.data for opened in world.opened] == [False, False, True, True, True]


def test_igd_2_picks_the_port_itself() -> None:
    router = only(Protocol.UPNP, service="urn:schemas-upnp-org:service:WANIPConnection:2",
                  mappings={PORT: ("192.168.1.99", PORT, None)})  # fmt: skip
    assert World(router).start().said == [Mapped(Address(WAN, PORT + 1), Protocol.UPNP, 3600)]
    assert "AddAnyPortMapping" in router.asked
    assert "AddPortMapping" not in router.asked


def test_a_router_that_knows_no_leases_gets_a_permanent_one_that_is_released() -> None:
    world = World(only(Protocol.UPNP, only_permanent=True)).start(until=100_000)
    assert world.said == [Mapped(OPEN, Protocol.UPNP, 0)]
    world.close()
    assert world.router.mappings == {}


# Leases


@EACH
@pytest.mark.parametrize("lifetime", [60, 3600])
def test_a_lease_is_renewed_from_its_half_on_and_never_runs_out(protocol: Protocol, lifetime: int) -> None:
    world = World(only(protocol), lifetime=lifetime).start()
    for step in range(20):
        world.run(world.now + lifetime / 4)
        assert PORT in world.router.mappings, step
    assert len(world.said) == 1
    asked = [word for word in world.router.asked if "map" in word.lower() and "Get" not in word]
    assert len(asked) == pytest.approx(1 + 20 / 4 / 0.56, abs=2)


@pytest.mark.parametrize("protocol", [Protocol.PCP, Protocol.NAT_PMP])  # UPnP does not say how long it grants
def test_a_shorter_lease_than_asked_for_is_renewed_in_time(protocol: Protocol) -> None:
    world = World(only(protocol, most=40)).start(until=400)
    assert world.said == [Mapped(OPEN, protocol, 40)]
    assert PORT in world.router.mappings


def test_renewals_differ_by_chance() -> None:
    firsts = set()
    for seed in range(20):
        world = World(only(Protocol.NAT_PMP), seed=seed).start(until=3000)
        (renewed,) = [at for at, data in world.sent if data[1] == 1 and at > 1]
        assert 1800 <= renewed <= 2251
        firsts.add(round(renewed))
    assert len(firsts) > 10


@EACH
def test_a_restart_of_the_router_is_noticed_within_two_minutes(protocol: Protocol) -> None:
    world = World(only(protocol)).start(until=500)
    world.router.restart(world.now)
    world.run(world.now + 125)
    assert PORT in world.router.mappings
    assert len(world.said) == 1, "the mapping is where it was: nothing to be told"


@EACH
def test_another_address_after_a_restart_is_told(protocol: Protocol) -> None:
    world = World(only(protocol)).start(until=500)
    world.router.restart(world.now)
    world.router.wan = "9.9.9.9"
    world.run(world.now + 125)
    assert world.said[1:] == [Mapped(Address("9.9.9.9", PORT), protocol, 3600)]


@pytest.mark.parametrize("protocol", [Protocol.NAT_PMP, Protocol.UPNP])  # PCP tells at the next renewal
def test_another_address_without_a_restart_is_told(protocol: Protocol) -> None:
    world = World(only(protocol)).start(until=500)
    world.router.wan = "9.9.9.9"
    world.run(world.now + 125)
    assert world.said[1:] == [Mapped(Address("9.9.9.9", PORT), protocol, 3600)]


@EACH
def test_a_router_that_falls_silent_loses_the_mapping_at_the_end_of_the_lease(protocol: Protocol) -> None:
    world = World(only(protocol), lifetime=600).start()
    world.is_dark = True
    world.run(650)
    lost_at, lost = world.events[1]
    assert isinstance(lost, Lost)
    assert lost_at == pytest.approx(600, abs=1)
    assert isinstance(world.said[-1], NoMapper)
    world.is_dark = False
    world.run(world.now + ROUND)
    assert world.said[-1] == Mapped(OPEN, protocol, 600)


def test_another_machine_that_takes_the_port_over_is_noticed() -> None:
    world = World(only(Protocol.UPNP)).start()
    world.router.mappings[PORT] = ("192.168.1.66", PORT, None)
    world.run(130)
    assert isinstance(world.said[1], Lost)
    again = world.said[-1]
    assert isinstance(again, Mapped)
    assert again.external.port != PORT


# Slow and lossy


@EACH
@pytest.mark.parametrize("seed", range(10))
def test_one_packet_of_five_lost_is_borne(protocol: Protocol, seed: int) -> None:
    world = World(only(protocol), loss=0.2, seed=seed).start(until=2 * ROUND)
    assert isinstance(world.said[-1], Mapped)


@EACH
def test_a_router_slower_than_our_patience_maps_all_the_same(protocol: Protocol) -> None:
    world = World(only(protocol), delay=5.0).start(until=60)
    assert isinstance(world.said[0], NoMapper)
    assert world.said[-1] == Mapped(OPEN, protocol, 3600)
    world.close()
    assert world.router.mappings == {}


def test_a_slow_protocol_is_overtaken_and_its_mapping_is_the_same_one() -> None:
    world = World(Router())
    world.delays = lambda kind: 2.0 if kind == "PCP map" else 0.002
    world.start()
    assert world.said == [Mapped(OPEN, Protocol.NAT_PMP, 3600)]
    assert 0.75 < world.events[0][0] < 1
    assert PORT in world.router.mappings


def test_a_late_mapping_at_another_port_is_deleted_and_the_winner_asks_once_more() -> None:
    world = World(Router())
    world.delays = lambda kind: 2.0 if kind == "PCP map" else 0.002
    world.router.lie = lambda answer: answer[:42] + b"\x23\x28" + answer[44:] if answer[:2] == b"\x02\x81" else answer
    world.start()
    assert world.said == [Mapped(OPEN, Protocol.NAT_PMP, 3600)]
    assert world.router.asked[-1] == "NAT-PMP map"
    assert PORT in world.router.mappings


@EACH
def test_closing_in_the_middle_of_mapping_leaves_nothing(protocol: Protocol) -> None:
    for tick in range(1, 40):
        world = World(only(protocol), delay=0.02).start(until=tick * 0.005)
        world.close()
        assert world.router.mappings == {}, tick
        assert world.machine.is_closed, tick


def test_closing_gives_up_on_a_router_that_does_not_answer() -> None:
    for protocol in Protocol:
        world = World(only(protocol)).start()
        world.is_dark = True
        world.machine.close(world.now)
        world.run(world.now + 20)
        assert world.machine.is_closed


# Refusals


def test_nobody_there_is_told_within_four_seconds() -> None:
    world = World(Router(offers=set())).start(until=ROUND - 1)
    ((at, verdict),) = world.events
    assert at == pytest.approx(3.75)
    assert verdict == NoMapper(tuple((protocol, "no answer") for protocol in Protocol))
    assert len(world.sent) == 2 * 4 + 2 * 4
    world.run(2 * ROUND)
    assert len(world.events) == 1, "the same verdict of the next round is not told again"


def test_icmp_ends_the_wait_for_pcp_and_nat_pmp() -> None:
    world = World(Router(offers=set()))
    world.at(0.001, lambda: [world.machine.handle_unreachable(0.001) for _ in range(4)])
    world.start()
    found = reasons(world)
    assert found[Protocol.PCP] == found[Protocol.NAT_PMP] == "nobody listens there"


def test_refusals_are_told_in_words_per_protocol() -> None:
    router = Router(refuse={Protocol.PCP: 2, Protocol.NAT_PMP: 2, Protocol.UPNP: 606})
    found = reasons(World(router).start())
    assert all("refuses" in reason for reason in found.values()), found


@pytest.mark.parametrize(("error_lifetime", "again"), [(60, 60), (1, 30), (4_000_000_000, ROUND)])
def test_a_short_lived_error_is_tried_again_when_its_time_is_over(error_lifetime: int, again: float) -> None:
    world = World(only(Protocol.PCP, refuse={Protocol.PCP: 8}, refusal_lifetime=error_lifetime)).start(until=4)
    world.router.refuse.clear()
    world.run(ROUND + 10)
    at, event = world.events[-1]
    assert isinstance(event, Mapped)
    assert at == pytest.approx(3.75 + again, abs=0.5)


def test_a_router_of_nat_pmp_only_is_told_from_one_of_pcp() -> None:
    world = World(Router(offers={Protocol.NAT_PMP}, refuse={Protocol.NAT_PMP: 2})).start()
    assert reasons(world)[Protocol.PCP] == "it speaks NAT-PMP only"


# Lies


@EACH
@pytest.mark.parametrize("wan", ["10.1.2.3", PRIVATE, "192.168.7.7"])
def test_a_private_external_address_is_another_nat(protocol: Protocol, wan: str) -> None:
    world = World(only(protocol, wan=wan)).start()
    assert world.said == [BehindAnotherNat(protocol, wan, None)]
    assert world.router.mappings == {}


@EACH
def test_an_external_address_of_zero_is_a_refusal(protocol: Protocol) -> None:
    world = World(only(protocol, wan="0.0.0.0")).start()
    assert "no internet address" in reasons(world)[protocol]
    assert world.router.mappings == {}


@EACH
def test_an_address_other_than_the_one_seen_is_another_nat(protocol: Protocol) -> None:
    world = World(only(protocol))
    world.machine.set_reflexive("9.9.9.9", 0.0)
    world.start()
    assert world.said == [BehindAnotherNat(protocol, WAN, "9.9.9.9")]
    assert world.router.mappings == {}


@EACH
def test_what_is_seen_later_withdraws_the_mapping_and_can_bring_it_back(protocol: Protocol) -> None:
    world = World(only(protocol)).start()
    world.machine.set_reflexive(WAN, world.now)
    world.run(20)
    assert len(world.said) == 1
    world.machine.set_reflexive("9.9.9.9", world.now)
    world.run(30)
    assert isinstance(world.said[1], Lost)
    assert world.said[2:] == [BehindAnotherNat(protocol, WAN, "9.9.9.9")]
    assert world.router.mappings == {}
    world.machine.set_reflexive(WAN, world.now)
    world.run(40)
    assert world.said[-1] == Mapped(OPEN, protocol, 3600)


def test_a_private_reflexive_address_says_nothing() -> None:
    world = World(Router())
    world.machine.set_reflexive("192.168.1.10", 0.0)
    assert isinstance(world.start().said[0], Mapped)


def test_who_lies_about_the_address_makes_way_for_who_does_not() -> None:
    router = Router(offers={Protocol.NAT_PMP, Protocol.UPNP})
    router.lie = lambda answer: answer[:8] + bytes([9, 9, 9, 9]) if answer[:2] == b"\x00\x80" else answer
    world = World(router)
    world.machine.set_reflexive(WAN, 0.0)
    assert world.start().said == [Mapped(OPEN, Protocol.UPNP, 3600)]


def patch(start: bytes, offset: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + value + data[offset + len(value) :] if data.startswith(start) else data


PCP_MAP, NAT_PMP_MAP = b"\x02\x81", b"\x00\x81"


@pytest.mark.parametrize(
    ("protocol", "lie", "word"),
    [
        (Protocol.PCP, patch(PCP_MAP, 24, bytes(12)), "another nonce"),
        (Protocol.PCP, patch(PCP_MAP, 36, b"\x06"), "another protocol"),
        (Protocol.PCP, patch(PCP_MAP, 40, b"\x11\x11"), "not ours"),
        (Protocol.PCP, patch(PCP_MAP, 42, bytes(2)), "no port"),
        (Protocol.PCP, patch(PCP_MAP, 4, bytes(4)), "too short"),
        (Protocol.NAT_PMP, patch(NAT_PMP_MAP, 8, b"\x11\x11"), "not ours"),
        (Protocol.NAT_PMP, patch(NAT_PMP_MAP, 10, bytes(2)), "no port"),
        (Protocol.NAT_PMP, patch(NAT_PMP_MAP, 12, bytes(4)), "too short"),
    ],
)
def test_lies_of_a_router_are_no_mapping(protocol: Protocol, lie: Callable[[bytes], bytes], word: str) -> None:
    world = World(only(protocol, lie=lie)).start()
    assert word in reasons(world)[protocol]


@pytest.mark.parametrize("entry", [("192.168.1.66", PORT), (CLIENT, 1)])
def test_upnp_that_maps_to_another_machine_or_port_is_no_mapping(entry: tuple[str, int]) -> None:
    world = World(only(Protocol.UPNP, entry=entry)).start()
    assert "another machine or port" in reasons(world)[Protocol.UPNP]


@pytest.mark.parametrize("protocol", [Protocol.PCP, Protocol.NAT_PMP])
def test_a_router_that_answers_without_end_makes_us_say_and_send_no_more(protocol: Protocol) -> None:
    world = World(only(protocol)).start()
    sent = len(world.sent)
    for number in range(1000):
        epoch, port = struct.pack("!I", number * 7919 % 10_000), struct.pack("!H", 6000 + number)
        for data in (
            b"\0\x81\0\0" + epoch + struct.pack("!H", PORT) + port + struct.pack("!I", 3600),
            b"\0\x80\0\0" + epoch + bytes([9, 9, 9, number % 256]),
            b"\x02\x80\0\0" + bytes(4) + epoch + bytes(12),
        ):
            world.deliver(data, Address(GATEWAY, 5351))
    world.run(world.now + 1)
    assert len(world.said) == 1
    assert len(world.sent) == sent


def test_an_absurd_lease_is_renewed_within_a_day() -> None:
    world = World(only(Protocol.PCP, lie=patch(PCP_MAP, 4, b"\xff\xff\xff\xff"))).start(until=86_400)
    assert world.router.asked.count("PCP map") >= 2


def test_answers_from_elsewhere_are_not_heard() -> None:
    world = World(Router(offers=set()))
    nat_pmp = bytes.fromhex("0080000000000064") + bytes([9, 9, 9, 9])
    for source in (Address(GATEWAY, 5350), Address("192.168.1.66", 5351)):
        world.at(0.1, lambda source=source: world.deliver(nat_pmp, source))
    world.start()
    assert set(reasons(world).values()) == {"no answer"}


def test_upnp_hears_only_the_gateway_where_it_is_known() -> None:
    answer = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.66/d.xml\r\n\r\n"
    world = World(Router(offers=set()))
    world.at(0.1, lambda: world.deliver(answer, Address("192.168.1.66", 1900)))
    assert world.start().opened == []
    guessing = World(Router(offers=set()), is_guess=True)
    guessing.at(0.1, lambda: guessing.deliver(answer, Address("8.8.8.8", 1900)))
    assert guessing.start().opened == []


def test_where_the_router_is_guessed_a_device_that_is_none_does_not_hide_it() -> None:
    world = World(only(Protocol.UPNP), is_guess=True)
    television = Address("192.168.1.66", 80)
    world.strangers.add(television)
    answer = b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.66/d.xml\r\n\r\n"
    world.at(0.0005, lambda: world.deliver(answer, Address(television.host, 1900)))
    assert world.start().said == [Mapped(OPEN, Protocol.UPNP, 3600)]
    assert world.opened[0].address == television


def test_a_router_with_a_broken_description_beside_a_good_one_maps() -> None:
    world = World(only(Protocol.UPNP))
    broken = f"HTTP/1.1 200 OK\r\nLOCATION: http://{GATEWAY}/tv.xml\r\n\r\n".encode()
    world.strangers.add(Address(GATEWAY, 80))
    world.at(0.0005, lambda: world.deliver(broken, Address(GATEWAY, 1900)))
    assert world.start().said == [Mapped(OPEN, Protocol.UPNP, 3600)]


@pytest.mark.parametrize(
    "location",
    [
        "http://192.168.1.66/d.xml", "https://192.168.1.1/d.xml", "http://192.168.1.1.evil.example/",
        "http://user@192.168.1.1/", "file:///etc/passwd", "http://192.168.1.1:99999/", "http://[::1]/", "http://router/",
        "http://127.0.0.1/",
    ],
)  # fmt: skip
def test_a_description_elsewhere_is_not_fetched(location: str) -> None:
    world = World(only(Protocol.UPNP, location=location)).start()
    assert world.opened == []


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_lies_and_losses_ends_in_a_deadline_ahead(seed: int) -> None:
    for offers in ([*Protocol], [Protocol.UPNP], [Protocol.PCP, Protocol.NAT_PMP]):
        world = World(Router(offers=set(offers)), loss=0.3, seed=seed, lifetime=30)
        for when in range(20, 2000, 97):
            world.at(when, lambda world=world: world.router.restart(world.now))
        world.start(until=2000)
        world.close()
        assert world.router.mappings == {} or world.loss


@given(datagrams=st.lists(st.tuples(st.sampled_from([b"\0\x80\0\0", b"\0\x81\0\0", b"\2\x81\0\0", b"\2\x80\0\0", b"",
                                                      b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5431/"]),
                                     st.binary(max_size=70), st.booleans()), max_size=8),
       pieces=st.lists(st.binary(max_size=90), max_size=4))  # fmt: skip
@settings(max_examples=150)
def test_whatever_comes_the_machine_goes_on(datagrams: list[tuple[bytes, bytes, bool]], pieces: list[bytes]) -> None:
    world = World(Router())
    for number, (start, rest, is_gateway) in enumerate(datagrams):
        source = Address(GATEWAY, 5351 if is_gateway else 1900)
        world.at(number * 0.001, lambda start=start, rest=rest, source=source: world.deliver(start + rest, source))
    for number, piece in enumerate(pieces, 1):
        world.at(number * 0.002, lambda number=number, piece=piece: world.machine.handle_data(number, piece, world.now))
    world.machine.set_reflexive(WAN, 0.0)
    world.start(until=ROUND + 20)
    world.close()
    assert world.machine.is_closed


def test_the_world_is_honest() -> None:
    """Without knobs the fake maps, and replacing its address changes what is said."""
    elsewhere = Address("9.9.9.9", PORT)
    assert World(replace(Router(), wan=elsewhere.host)).start().said == [Mapped(elsewhere, Protocol.PCP, 3600)]
