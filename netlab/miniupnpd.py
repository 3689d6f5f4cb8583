"""What miniupnpd needs to be a router's port mapper: its tables and its configuration, as text. Pure."""

from __future__ import annotations

from netlab.nat import LAN, WAN, PortMapper

TABLE = "port_mapper"
HTTP_PORT = 5000  # of the UPnP description and control
PCP_PORT = 5351  # RFC 6887 section 19; NAT-PMP's as well, RFC 6886 section 3.1
# The first byte behind the UDP header, RFC 6887 section 9: what tells one from the other on their port.
VERSIONS = {PortMapper.NAT_PMP: 0, PortMapper.PCP: 2}


def tables(offered: PortMapper) -> str:
    """The chains that miniupnpd fills, as text for ``nft -f -``; empty when nothing is offered.

    What it maps goes before the router's own destination and source NAT. miniupnpd serves NAT-PMP
    and PCP or neither: of one alone, requests of the other are dropped.
    """
    if not offered:
        return ""
    refused = "".join(
        f'\t\tiifname "{LAN}" udp dport {PCP_PORT} @th,64,8 {version} drop\n'
        for protocol, version in VERSIONS.items()
        if protocol not in offered
    )
    return (
        f"table inet {TABLE} {{\n"
        "\tchain miniupnpd {\n\t}\n"
        "\tchain prerouting_miniupnpd {\n\t}\n"
        "\tchain postrouting_miniupnpd {\n\t}\n"
        "\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n\t\tjump miniupnpd\n\t}\n"
        "\tchain prerouting {\n\t\ttype nat hook prerouting priority -100; policy accept;\n"
        "\t\tjump prerouting_miniupnpd\n\t}\n"
        "\tchain postrouting {\n\t\ttype nat hook postrouting priority 98; policy accept;\n"
        "\t\tjump postrouting_miniupnpd\n\t}\n"
        f"\tchain input {{\n\t\ttype filter hook input priority 0; policy accept;\n{refused}\t}}\n"
        "}\n"
    )


def configuration(offered: PortMapper) -> str:
    """Its configuration file. A host may open ports from 1024 to itself, for one second or more."""
    return (
        f"ext_ifname={WAN}\n"
        f"listening_ip={LAN}\n"
        f"http_port={HTTP_PORT}\n"
        f"enable_upnp={_word(PortMapper.UPNP in offered)}\n"
        f"enable_natpmp={_word(bool(offered & (PortMapper.NAT_PMP | PortMapper.PCP)))}\n"
        f"upnp_table_name={TABLE}\n"
        f"upnp_nat_table_name={TABLE}\n"
        "min_lifetime=1\n"
        "secure_mode=yes\n"
        "ipv6_disable=yes\n"
        "uuid=6e65746c-6162-4d61-8070-65720a000000\n"
        "allow 1024-65535 0.0.0.0/0 1024-65535\n"
        "deny 0-65535 0.0.0.0/0 0-65535\n"
    )


def _word(yes: bool) -> str:
    return "yes" if yes else "no"
