"""What the lab needs of a machine, said in words."""

from __future__ import annotations

import importlib.util
import shutil
from functools import cache

from netlab import namespace

PROGRAMS = {"iptables-restore": "iptables", "cat": "coreutils"}  # program: Debian package
MODULES = ("pyroute2", "scapy")


class MissingRequirements(Exception):
    """The environment lacks something; the message lists what, and how to get it."""


def missing_requirements() -> list[str]:
    """Every thing that is missing, one sentence each; empty when a lab can be built.

    Found out by doing, not by asking for a user id: root in a container may lack the right, and
    an ordinary user in a user namespace may have it.
    """
    return list(_missing())


def require() -> None:
    """Raise ``MissingRequirements`` unless a lab can be built here."""
    if missing := _missing():
        raise MissingRequirements("the NAT lab cannot run here: " + "; ".join(missing))


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
        return [
            f"no network namespace can be made ({error.strerror}): run as root; in a container, add"
            " the capabilities NET_ADMIN and SYS_ADMIN"
        ]
    try:
        return space.call(_inside)
    finally:
        space.close()


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
    }.items():
        try:
            kernel.iptables(commands)
        except kernel.LabError as error:
            missing.append(f"iptables cannot do {what}: {error}")
    return missing
