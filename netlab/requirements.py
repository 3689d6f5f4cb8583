"""What the lab needs of a machine, said in words."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

from netlab import namespace, rootless
from netlab.filters import filters
from netlab.forwarder import open_tap
from netlab.nat import Filtering, Nat

PROGRAMS = {"iptables-restore": "iptables", "nft": "nftables", "cat": "coreutils"}  # program: Debian package
MODULES = ("pyroute2", "scapy")
TUN = "/dev/net/tun"
EVERYTHING = Nat("all that a table can do", filtering=Filtering.ADDRESS_DEPENDENT, hairpinning=True)


class MissingRequirements(Exception):
    """The environment lacks something; the message lists what, and how to get it."""


def missing_requirements() -> list[str]:
    """Every thing that is missing, one sentence each; empty when a lab can be built.

    Found out by doing, not by asking for a user id: root in a container may lack the right, and
    an ordinary user in a user namespace may have it.
    """
    return list(_missing())


def require(needs: Iterable[str] = ()) -> None:
    """Raise ``MissingRequirements`` unless a lab with these ``needs`` (see :func:`lacking`) can be built here."""
    if missing := [*_missing(), *lacking(needs)]:
        raise MissingRequirements("the NAT lab cannot run here: " + "; ".join(missing))


def lacking(needs: Iterable[str]) -> list[str]:
    """What of ``needs`` (names in :data:`NEEDS`) this machine lacks beyond the lab itself, in words.

    Raises ``ValueError`` for an unknown name.
    """
    words = []
    for name in needs:
        if name not in NEEDS:
            raise ValueError(f"no test can need {name!r}; there are: {', '.join(NEEDS)}")
        words.append(NEEDS[name]())
    return [each for each in words if each]


@cache
def _tun() -> str:
    # By making one: in a user namespace of root's the file opens, and the device is refused.
    try:
        (space,) = namespace.create(1)
        try:
            space.call(lambda: os.close(open_tap("tap", 1500)))
        finally:
            space.close()
    except OSError as error:
        return f"{TUN} makes no device ({error.strerror}), so nothing can be impaired by the forwarder"
    return ""


def _root() -> str:
    """Each line of a uid_map: first id inside, first id outside, how many."""
    lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    if sum(int(line.split()[2]) for line in lines) > 1 and os.geteuid() == 0:
        return ""
    return "only root can mount, or become another user"


def _port_mapper() -> str:
    if shutil.which("miniupnpd") is None:
        return "the program miniupnpd, a router's port mapper, is not installed (apt-get install miniupnpd-nftables)"
    return ""


NEEDS: dict[str, Callable[[], str]] = {"tun": _tun, "root": _root, "port-mapper": _port_mapper}


@cache
def _missing() -> tuple[str, ...]:
    missing = [
        f"the Python package {name} is not installed (pip install {name})"
        for name in MODULES
        if importlib.util.find_spec(name) is None
    ]
    missing += [
        f"the program {program} is not installed (apt-get install {package})"
        for program, package in PROGRAMS.items()
        if shutil.which(program) is None
    ]
    return (*missing, *(_kernel() if not missing else ()))


def _kernel() -> list[str]:
    try:
        (space,) = namespace.create(1)
    except OSError as error:
        return [f"no network namespace can be made ({error.strerror}): {_advice()}"]
    try:
        return space.call(_inside)
    finally:
        space.close()


def _advice() -> str:
    if rootless.active():
        return (
            "the kernel gives a user namespace no capabilities (see sysctl"
            " kernel.apparmor_restrict_unprivileged_userns): run as root"
        )
    if words := rootless.refusal():
        return f"{words}; run as root"
    return (
        "run as root, or by `python -m netlab.rootless COMMAND`; in a container, add the capabilities"
        " NET_ADMIN and SYS_ADMIN"
    )


def _inside() -> list[str]:
    """Try each thing a lab does, in a namespace of its own."""
    # Imported late, so that a missing pyroute2 is told in words.
    from netlab import kernel  # noqa: PLC0415

    missing = []
    try:
        with kernel.netlink() as ipr:
            ipr.link("add", ifname="bridge", kind="bridge")
            ipr.link("add", ifname="one", kind="veth", peer={"ifname": "two"})
    except Exception as error:  # pyroute2's errors have no common base but this
        missing.append(f"the kernel makes no bridge or veth here ({error}): CAP_NET_ADMIN, modules bridge and veth")
    for what, commands in {
        "NAT (modules nf_nat, xt_MASQUERADE)": ["iptables -t nat -A POSTROUTING -o two -j MASQUERADE"],
        "packet statistics (module xt_statistic)": [
            "iptables -A FORWARD -m statistic --mode random --probability 0.5 -j DROP"
        ],
        "connection marks (module xt_connmark)": ["iptables -A FORWARD -m connmark --mark 1 -j DROP"],
    }.items():
        try:
            kernel.iptables(commands)
        except kernel.LabError as error:
            missing.append(f"iptables cannot do {what}: {error}")
    try:
        kernel.nft(filters(EVERYTHING, IPv4Address("192.0.2.1"), {}))
    except kernel.LabError as error:
        missing.append(f"nftables cannot learn a NAT's bindings (modules nf_tables, nft_ct, nft_nat): {error}")
    return missing
