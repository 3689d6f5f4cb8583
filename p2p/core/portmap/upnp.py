"""UPnP on the wire: SSDP search, device description, SOAP actions of WANIPConnection 1 and 2 and WANPPPConnection 1."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape as escape_xml
from typing import Final

from p2p.core.address import Address
from p2p.core.errors import DecodeError
from p2p.core.portmap.http import Response, Url, parse_url
from p2p.core.portmap.xml import Element, parse
from p2p.core.text import escape

SSDP_PORT: Final = 1900
SSDP_GROUP: Final = Address("239.255.255.250", SSDP_PORT)  # UPnP Device Architecture 2.0, section 1.3.2
MAX_SSDP: Final = 2048  # bytes of an answer to a search; they have some 300
# A gateway of version 2 answers a search for version 1 (section 1.3.2); some routers answer only the second search.
TARGETS: Final = ("urn:schemas-upnp-org:device:InternetGatewayDevice:1", "upnp:rootdevice")
MAX_SERVICES: Final = 4  # connection services of one device that are tried; most have one or two
MAX_DESCRIPTION: Final = 60  # characters of a router's own words
_SERVICE = re.compile(r"urn:schemas-upnp-org:service:WAN(?:IP|PPP)Connection:[12]")


@dataclass(frozen=True, slots=True)
class Service:
    """A connection service of a gateway: what it is called, and where it takes actions."""

    kind: str
    control: Url

    @property
    def picks_ports(self) -> bool:
        """Whether there is AddAnyPortMapping: WANIPConnection 2, section 2.5.19."""
        return self.kind.endswith("WANIPConnection:2")


class SoapFault(Exception):
    """The device refused an action; `code` is UPnP's error code, or HTTP's status where there is none."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"error {code}{f' ({description})' if description else ''}")
        self.code = code


def search(target: str, to: Address) -> bytes:
    """M-SEARCH: UPnP Device Architecture 2.0, sections 1.3.2 (multicast) and 1.3.2.2 (unicast, without MX)."""
    patience = "MX: 1\r\n" if to == SSDP_GROUP else ""  # seconds over which the answers may be spread
    head = f'M-SEARCH * HTTP/1.1\r\nHOST: {to}\r\nMAN: "ssdp:discover"\r\n'
    return f"{head}{patience}ST: {target}\r\n\r\n".encode("ascii")


def parse_search_answer(data: bytes, host: str) -> Url:
    """Where the device at `host`, which this datagram came from, describes itself. Raises DecodeError."""
    if len(data) > MAX_SSDP:
        raise DecodeError("an answer to a search that is too large")
    first, *lines = data.decode("latin-1").split("\r\n")
    if not re.match(r"HTTP/1\.[01] 200(?: |$)", first):
        raise DecodeError("not an answer to a search")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "location":
            return parse_url(value.strip(), host)
    raise DecodeError("an answer to a search without a location")


def parse_services(response: Response, where: Url) -> list[Service]:
    """The connection services in the description that was found at `where`. Raises DecodeError when there is none."""
    if response.status != 200:
        raise DecodeError(f"its description cannot be had (HTTP {response.status})")
    root = parse(response.body)
    base_text = next((child.text.strip() for child in root.children if child.name == "URLBase"), "")
    base = parse_url(base_text, where.address.host) if base_text else where
    services = []
    for element in root.walk():
        if element.name != "service":
            continue
        kind, control = element.find("serviceType") or "", element.find("controlURL")
        if _SERVICE.fullmatch(kind) and control:
            services.append(Service(kind, parse_url(control, where.address.host, base)))
    if not services:
        raise DecodeError("it is not a gateway")
    return services[:MAX_SERVICES]


def envelope(service: Service, action: str, arguments: dict[str, str]) -> str:
    """Section 3.2.1 of the Device Architecture."""
    fields = "".join(f"<{name}>{escape_xml(value, quote=False)}</{name}>" for name, value in arguments.items())
    return (
        '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service.kind}">{fields}</u:{action}></s:Body></s:Envelope>\r\n'
    )


def parse_result(response: Response) -> Element:
    """What an action answered. Raises SoapFault when it was refused, DecodeError for what is neither."""
    if response.status == 200:
        return parse(response.body)
    try:
        root = parse(response.body)
    except DecodeError:
        raise SoapFault(response.status, "") from None
    code = root.find("errorCode") or ""
    if not re.fullmatch(r"[0-9]{1,5}", code):
        raise SoapFault(response.status, "")
    raise SoapFault(int(code), escape((root.find("errorDescription") or "")[:MAX_DESCRIPTION]))


def port_of(element: Element, name: str) -> int:
    """Raises DecodeError when it is not there, or no port."""
    text = element.find(name) or ""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise DecodeError(f"{name} is no port")
    return int(text)
