"""Programs of others that classify a NAT, and what they say of a profile of the lab's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from netlab.lab import Lab, Node
from netlab.nat import KINDS, Filtering, Mapping, Nat, Udp
from netlab.topology import Host, Lan, Router, Topology

Verdict = TypeVar("Verdict")

CLIENTS = {"turnutils_natdiscovery": "coturn", "turnutils_stunclient": "coturn", "stun": "stun-client"}  # of Debian
SILENCE = "STUN receive timeout"  # as natdiscovery says it
ASK_LIMIT = 60  # seconds for one program; each silence costs it up to nine


def check_installed(programs: dict[str, str]) -> None:
    """Programs by name, and the Debian package of each."""
    missing = {package for program, package in programs.items() if shutil.which(program) is None}
    assert not missing, f"the outside classifier is not installed: apt-get install {' '.join(sorted(missing))}"


def ask_stun(node: Node, address: str) -> str:
    # Left to itself it draws a port that may lie in the router's own range, and "random port" is then kept by chance.
    # Each host has a port of its own: on a taken one the router would have to choose another.
    port = 50_000 + 10 * int(node.address.rpartition(".")[2])
    # Its exit code is its verdict, so it is never 0.
    said = node.run(["stun", address, "-p", str(port)], capture_output=True, text=True, timeout=ASK_LIMIT).stdout
    found = re.search(r"^Primary: (.*?)\s*$", said, re.MULTILINE)
    assert found, said
    return found[1]


def stun_words(nat: Nat) -> str:
    """The verdict of ``stun`` for a router that does what the profile says."""
    if nat.udp is not Udp.ALLOWED:
        return "Blocked or could not reach STUN server"
    if not nat.translates:
        return "Open" if nat.filtering is Filtering.ENDPOINT_INDEPENDENT else "Firewall"
    ports = "preserves ports" if nat.port_preservation else "random port"
    hairpin = "will hairpin" if nat.hairpinning else "no hairpin"
    if nat.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        return f"Dependent Mapping, {ports}, {hairpin}"
    filters = {
        Filtering.ENDPOINT_INDEPENDENT: "Independent Filter",
        Filtering.ADDRESS_DEPENDENT: "Address Dependent Filter",
        Filtering.ADDRESS_AND_PORT_DEPENDENT: "Port Dependent Filter",
    }
    return f"Independent Mapping, {filters[nat.filtering]}, {ports}, {hairpin}"


def ask_natdiscovery(lab: Lab, host: str, router: str, address: str) -> set[str]:
    """Its sentences on mapping, filtering and hairpinning of the host's router.

    One after the other, and nothing is left of what was mapped before: conntrack gives the same port to two
    sockets that write to different machines, and then it is the newer one that all others reach there.
    """
    said = ""
    for flags in (["-m", "-f"], ["-H"]):
        lab.flush_mappings(router)
        said += lab.host(host).run(
            ["turnutils_natdiscovery", *flags, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
            timeout=ASK_LIMIT,
        ).stdout
    verdicts = {*re.findall(r"NAT with [\w ]+!", said), *re.findall(r"successful hairpinning", said)}
    # With a verdict a silence is part of the method; without one it is the verdict, and not that it crashed.
    return verdicts or set(re.findall(SILENCE, said))


def outlives(lab: Lab, host: str, address: str, seconds: int) -> bool:
    """Whether natdiscovery hears from its server through a mapping that was idle for so many seconds."""
    said = lab.host(host).run(
        ["turnutils_natdiscovery", "-t", "-T", str(seconds), address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ASK_LIMIT,
    ).stdout
    assert "RFC 5780 response 1" in said, said
    assert ("RFC 5780 response 2" in said) is not (SILENCE in said), said
    return SILENCE not in said


def every_kind() -> Topology:
    """A LAN of two hosts behind a router of each kind: what waits for an answer waits in all of them at once.

        host0 --- nat0 --- core0 --- core1 --- nat25 --- host25
       other0 ---+                     |          +--- other25
                                     server
    """
    lans = (Lan((Host(f"host{i}"), Host(f"other{i}"))) for i in range(len(KINDS)))
    return Topology(tuple(Router(f"nat{i}", lan, kind) for i, (lan, kind) in enumerate(zip(lans, KINDS, strict=True))))


def of_each_kind(ask: Callable[[int], Verdict]) -> dict[str, Verdict]:
    """What ``ask`` says of each kind, whose number in KINDS it is given; all are asked at once."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        said = pool.map(ask, range(len(KINDS)))
        return {kind.name: verdict for kind, verdict in zip(KINDS, said, strict=True)}


def natdiscovery_words(nat: Nat) -> set[str]:
    """What ``turnutils_natdiscovery`` says of a router that does what the profile says."""
    if nat.udp is not Udp.ALLOWED:
        return {SILENCE}
    ways = {"EI": "Endpoint Independent", "AD": "Address Dependent", "APD": "Address and Port Dependent"}
    mapping, filtering = (ways[behaviour.value[:-1]] for behaviour in (nat.mapping, nat.filtering))
    # Without NAT the host reaches itself at the address it is seen at.
    hairpin = {"successful hairpinning"} if nat.hairpinning or not nat.translates else set()
    return {f"NAT with {mapping} Mapping!", f"NAT with {filtering} Filtering!", *hairpin}
