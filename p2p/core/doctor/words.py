"""What was found out, in words for a person: the verdict, the facts one by one, the table, and what would help."""

from __future__ import annotations

from itertools import groupby
from typing import Final, assert_never

from p2p.core.doctor.facts import HTTPS, Facts, Network, Upstream
from p2p.core.doctor.tcp import TcpOutcome
from p2p.core.nat.filtering import Filtering
from p2p.core.nat_report import Mapping
from p2p.core.peer.outlook import Ease, Reach
from p2p.core.portmap.events import BEHIND_CARRIER, BehindAnotherNat, Mapped, NoMapper
from p2p.core.text import escape

USUAL_MTU: Final = 1500  # bytes; Ethernet's

# With both columns a line of the table fits a terminal of 80 columns.
FRIENDS: Final = {
    Ease.PUBLIC: "on an open network (a rented server, say)",
    Ease.EASY: "behind a router that keeps one port (homes)",
    Ease.COUNTING: "behind a router that counts its ports",
    Ease.RANDOM: "behind a router with ports at random",
    Ease.POOL: "behind a carrier with few ports at random",
    Ease.BLOCKED: "whose network blocks UDP",
}
REACHES: Final = {
    Reach.DIRECT: "direct",
    Reach.PREDICTED: "direct, with the port predicted",
    Reach.SEARCHED: "direct, after a short search",
    Reach.TCP: "direct, by TCP (usually)",
    Reach.RELAYED: "through the server (relay)",
    Reach.UNSURE: "not known",
}


def verdict(facts: Facts) -> str:
    """One line. It says no more than the table."""
    if not facts.is_answered:
        return _unanswered(facts)
    if facts.is_inside:
        return "The server stands in your own network: friends in it will reach you directly; more it cannot see."
    table = dict(facts.table)
    who = "friends who have IPv6 too" if facts.main_version == 6 else "friends"
    match table[Ease.EASY], table[Ease.RANDOM]:
        case Reach.DIRECT, Reach.DIRECT:
            said = f"Nearly all {who} will reach you directly."
        case Reach.DIRECT, _:
            said = f"Most {who} will reach you directly."
        case Reach.PREDICTED, _:
            said = f"Most {who} will reach you directly, though your router makes it harder."
        case Reach.SEARCHED, _:
            said = f"Most {who} will reach you directly after a search of some seconds, the others through the server."
        case Reach.RELAYED, _:
            said = "Your files will go through the server, because this network lets no UDP out."
        case Reach.TCP, _:
            said = (
                "This network lets no UDP out, but most friends will usually reach you directly by TCP, the others "
                "through the server."
            )
        case _:
            said = "The server answers, but how this network treats UDP could not be found out."
    if facts.main_version == 4 and facts.v6.has_udp and table[Ease.EASY] is not Reach.DIRECT:
        said += " Friends who have IPv6, as you do, will reach you directly."
    return said


def _unanswered(facts: Facts) -> str:
    if not (facts.v4.asked or facts.v6.asked):
        return "Only this machine was looked at, for nobody outside could be asked how this network looks from there."
    if facts.server is None:
        return "No STUN server answers: either it is not there, or this network lets no UDP out."
    return f"The server at {facts.server} answers neither by UDP nor by TCP, so little could be found out."


def rows(facts: Facts) -> list[tuple[str, str]]:
    """A label and a sentence for each fact, with the technical term in brackets."""
    found = [
        ("Address", _address(facts)),
        ("VPN", _vpn(facts)),
        ("UDP", _udp(facts)),
        ("Ports", _ports(facts.main)),
        ("Who gets in", _filtering(facts.main)),
        ("Idle ports", _lifetime(facts.main)),
        ("Port opening", _mapper(facts)),
        ("Another NAT", _upstream(facts)),
        ("Neighbours", _hairpin(facts.v4)),
        ("IPv6", _ipv6(facts)),
        ("IPv4", _ipv4(facts)),
        ("TCP", _tcp(facts)),
        ("Packets", _mtu(facts)),
    ]
    return [(label, escape(sentence)) for label, sentence in found if sentence]  # a router's words may be in them


def heading(facts: Facts) -> str:
    """Of the table."""
    return "With a friend who has IPv6 too" if facts.main_version == 6 else "With a friend"


def table(facts: Facts) -> list[tuple[str, str]]:
    """Kinds of friends, and how they reach us; empty where nothing is known of that."""
    if not facts.is_answered or facts.is_inside:
        return []
    return [(FRIENDS[friend], REACHES[reach]) for friend, reach in facts.table]


def advice(facts: Facts) -> list[str]:
    """What to change to be direct more often, the most useful first; empty where nothing is to be gained."""
    if not facts.is_answered:
        return _advice_unanswered(facts)
    if facts.is_inside:
        return ["Ask a server on the internet (--server HOST or --stun HOST), which sees what friends elsewhere see."]
    if facts.is_udp_blocked:
        return [*_advice_blocked(), *_advice_vpn(facts)]
    if facts.ease in (Ease.PUBLIC, Ease.OPEN):
        return _advice_vpn(facts)
    return [*_advice_vpn(facts), *_advice_router(facts), *_advice_ipv6(facts)]


# facts


def _address(facts: Facts) -> str:
    main = facts.main
    seen = " and ".join(dict.fromkeys(each.host for each in main.reflexive))
    if main.has_udp and main.translates:
        return f"others see you at {seen}; this machine itself has {main.host}, so a router stands in between (NAT)"
    if main.has_udp:
        return f"this machine is seen at its own address {seen} (no NAT)"
    own = [host for each in facts.interfaces if not each.is_virtual for host in each.hosts]
    if not own:
        return "this machine is on no network"
    return f"this machine has {', '.join(own[:3])}{' and others' if len(own) > 3 else ''}"


def _vpn(facts: Facts) -> str:
    if (used := facts.vpn) is not None:
        return f"everything leaves by {used}, a VPN or another tunnel: what stands here is about that, not your router"
    others = [each.name for each in facts.interfaces if each.is_tunnel]
    return f"{', '.join(others)} is there, but does not lead to the server" if others else ""


def _udp(facts: Facts) -> str:
    if not facts.is_udp_blocked:
        return ""
    return "does not get out of this network: the server answers by TCP, but not by UDP (UDP blocked)"


def _ports(network: Network) -> str:
    nat = network.nat
    if nat is None or not network.has_udp or not network.translates:
        return ""
    kind = nat.mapping.name.lower().replace("_", "-")
    match nat.mapping:
        case Mapping.ENDPOINT_INDEPENDENT | Mapping.NOT_PORT_DEPENDENT:
            term = "endpoint-independent mapping"
            if nat.mapping is Mapping.NOT_PORT_DEPENDENT:
                term = "endpoint-independent mapping, as far as a server with one address can tell"
            number = (
                "and keeps the program's own number (port preservation)"
                if nat.preserves_ports
                else f"with another number than the program's{_block(nat.ports)} (no port preservation)"
            )
            return f"your router keeps one port for all destinations, so it is easy to aim at ({term}), {number}"
        case Mapping.UNKNOWN | Mapping.NO_UDP:
            return "how your router chooses ports could not be told: nobody answered whose view could be compared"
    if kind == "destination-dependent":
        kind = "address-dependent or address-and-port-dependent"
    term = f"(symmetric NAT; {kind} mapping)"
    if nat.stride:
        way = "up" if nat.stride > 0 else "down"
        step = "" if abs(nat.stride) == 1 else f" in steps of {abs(nat.stride)}"
        return f"your router uses a new port for each destination {term}, counting {way}{step}: it can be predicted"
    if nat.preserves_ports:
        return f"your router uses a new port for each destination where the program's is taken {term}"
    where = _block(nat.ports) or ", out of all there are: nobody can predict it"
    return f"your router uses a new port at random for each destination {term}{where}"


def _block(ports: range) -> str:
    return f", out of {len(ports)} ({ports[0]} to {ports[-1]})" if ports else ""


def _filtering(network: Network) -> str:
    match network.filtering:
        case None:
            return ""
        case Filtering.ENDPOINT_INDEPENDENT:
            term = "endpoint-independent filtering"
            term = f"full cone; {term}" if network.translates else f"no firewall; {term}"
            return f"everybody who knows your address and port ({term})"
        case Filtering.ADDRESS_DEPENDENT:
            return "whomever this machine has written to, from any of their ports (address-dependent filtering)"
        case Filtering.ADDRESS_AND_PORT_DEPENDENT:
            return (
                "only whom this machine has written to, and only from that very port "
                "(address-and-port-dependent filtering), as with most routers; so p2p has both sides write first"
            )
        case Filtering.NOT_PORT_DEPENDENT:
            return (
                "whomever this machine has written to, from any of their ports; whether strangers too, a server with "
                "one address cannot tell (endpoint-independent or address-dependent filtering)"
            )
        case Filtering.UNKNOWN:
            return "could not be told (filtering unknown)"
        case _:
            assert_never(network.filtering)


def _lifetime(network: Network) -> str:
    found = network.lifetime
    if found is None:
        return ""
    if found.at_least is None:
        return "how long an unused port is kept could not be measured"
    if found.at_most is None:
        return f"an unused port is kept for more than {found.at_least:g} s (mapping lifetime)"
    return f"an unused port is kept for {found.at_least:g} to {found.at_most:g} s (mapping lifetime)"


def _mapper(facts: Facts) -> str:
    if facts.is_udp_blocked:
        return ""  # an open port would be of no use
    match facts.mapper:
        case None:
            return ""
        case Mapped(external, protocol):
            if facts.proved is False:
                return (
                    f"the router says that it opened {external} ({protocol.value}), but nothing comes through: "
                    "another router or a firewall stands in the way"
                )
            tried = "; a stranger's packet came through" if facts.proved else ", which was not tried from outside"
            return f"the router opens a port when p2p asks for it (port mapping by {protocol.value}){tried}"
        case BehindAnotherNat(protocol, external):
            return (
                f"the router would open a port ({protocol.value}), but it has only the address {external} itself, "
                "so that would not help"
            )
        case NoMapper(reasons) if facts.mapper.hints_at_carrier:
            names = ", ".join(protocol.value for protocol, reason in reasons if reason.endswith(BEHIND_CARRIER))
            return f"the router knows how to (port mapping by {names}), but has no internet address of its own to open"
        case NoMapper(reasons):
            by_reason = sorted(((reason, protocol.value) for protocol, reason in reasons))
            groups = [(reason, [name for _, name in group]) for reason, group in groupby(by_reason, lambda x: x[0])]
            if len(groups) == 1:
                names = ", ".join(protocol.value for protocol, _ in reasons)
                return f"the router opens no port when asked (port mapping by {names}): {groups[0][0]}"
            why = "; ".join(f"{' and '.join(names)}: {reason}" for reason, names in groups)
            return f"the router opens no port when asked (port mapping): {why}"
        case _:
            assert_never(facts.mapper)


def _upstream(facts: Facts) -> str:
    match facts.upstream:
        case Upstream.CARRIER:
            return "your provider shares one internet address among several customers (carrier-grade NAT)"
        case Upstream.LIKELY_CARRIER:
            return "your provider probably shares one internet address among several customers (carrier-grade NAT)"
        case Upstream.ANOTHER:
            return "a second router stands between yours and the internet (double NAT)"
        case Upstream.NONE | Upstream.UNKNOWN:
            return ""
        case _:
            assert_never(facts.upstream)


def _hairpin(network: Network) -> str:
    match network.hairpins:
        case None:
            return ""
        case True:
            return "two machines behind your router reach each other by its outside address too (hairpinning)"
        case False:
            return "two machines behind your router reach each other by their inside addresses only (no hairpinning)"


def _ipv6(facts: Facts) -> str:
    network = facts.v6
    if network.has_udp:
        if network.translates:
            return f"works, though through a NAT: others see you at {network.reflexive[0].host}"
        match network.filtering:
            case Filtering.ENDPOINT_INDEPENDENT:
                guard = ", and everybody gets in"
            case None | Filtering.UNKNOWN:
                guard = ""
            case _:
                guard = "; a firewall lets in only whom this machine writes to first, which both sides then do"
        return f"works: {network.reflexive[0].host}, without NAT{guard}"
    if network.asked and network.host is not None:
        return "this machine has an address, but the server does not answer by UDP over IPv6"
    if facts.has_public_v6:
        return "this machine has an address; whether it works is not known, for nobody was asked who has IPv6 too"
    return "this machine has no IPv6 address for the internet"


def _ipv4(facts: Facts) -> str:
    """Only where it is missing."""
    if facts.main_version == 4:
        return ""
    return "does not work here: with friends who have nothing else, files go through the server at best"


def _tcp(facts: Facts) -> str:
    if not facts.tcp:
        return ""
    answered = facts.tcp_ports(facts.main_version)
    if answered == {HTTPS} and facts.is_udp_blocked:
        return "only port 443 gets out; the server answers there"
    if answered:
        return f"the server answers at port {' and '.join(map(str, sorted(answered)))}"
    if any(each.outcome is TcpOutcome.REFUSED for each in facts.tcp):
        return "gets out, but the machine at the server's address says that no server listens there"
    return "the server does not answer"


def _mtu(facts: Facts) -> str:
    if facts.mtu is None:
        return ""
    if facts.mtu == 0:
        return "not even 1280 bytes arrive whole at the server, which every network should carry (MTU)"
    if facts.mtu == USUAL_MTU:
        return "of the usual 1500 bytes arrive at the server (MTU)"
    return f"of {facts.mtu} bytes arrive at the server, larger ones do not (MTU); a tunnel or a DSL line, likely"


# what would help


def _advice_unanswered(facts: Facts) -> list[str]:
    if not (facts.v4.asked or facts.v6.asked):
        return ["Run it again with --server HOST, or with --stun HOST: somebody outside has to say what they see."]
    if facts.server is None:
        return ["Try another STUN server, or a rendezvous server (--server HOST), which is asked by TCP too."]
    found = ["Check --server (or P2P_SERVER), and that the server runs: python -m p2p.server"]
    if any(each.address.port == HTTPS and each.outcome is TcpOutcome.REFUSED for each in facts.tcp):
        found.append(
            "Where a network lets nothing out but TCP to port 443, the server has to listen there: --tcp-port 443"
        )
    return [*found, "Try it from another network (a phone's hotspot, say), to see which of the two it is."]


def _advice_blocked() -> list[str]:
    return [
        "Use another network where you can: a phone's hotspot, or the one at home.",
        "Or ask whoever runs this network to let UDP out.",
    ]


def _advice_vpn(facts: Facts) -> list[str]:
    if facts.vpn is None:
        return []
    return [f"Switch the VPN ({facts.vpn}) off and run this again: without it the network may be easier."]


def _advice_router(facts: Facts) -> list[str]:
    found = []
    match facts.upstream:
        case Upstream.CARRIER | Upstream.LIKELY_CARRIER:
            found.append(
                "Ask your provider for an internet address of your own (a public IPv4 address), or for IPv6. "
                "Bridge mode in your own router takes one of the two NATs away, but not the provider's."
            )
        case Upstream.ANOTHER:
            found.append(
                "Set the router nearer to you to bridge mode (or access point mode), so that only one NAT is left; "
                "if the other one is your provider's, ask for a public IPv4 address."
            )
        case Upstream.NONE | Upstream.UNKNOWN:
            if not isinstance(facts.mapper, Mapped) and facts.v4.translates:
                found.append(
                    "Switch on port opening in your router's settings (UPnP, NAT-PMP or PCP): "
                    "p2p then opens a port while it runs, and closes it again."
                )
            if facts.main.translates and facts.ease in (Ease.COUNTING, Ease.RANDOM, Ease.POOL):
                found.append(
                    'If the router has a setting "NAT type", choose "full cone", "open" or "endpoint-independent", '
                    'not "symmetric" or "strict".'
                )
        case _:
            assert_never(facts.upstream)
    return found


def _advice_ipv6(facts: Facts) -> list[str]:
    if facts.v6.has_udp:
        return []
    if facts.v6.asked and facts.v6.host is not None:
        return ["Look at the IPv6 settings of your router and firewall: there is an address, but it leads nowhere."]
    if facts.has_public_v6:
        return []
    return ["Switch on IPv6 in your router, if your provider has it: between two machines that have it no NAT stands."]
