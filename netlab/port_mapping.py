"""A host's side of port mapping: NAT-PMP (RFC 6886), PCP (RFC 6887) and UPnP IGD, UDP ports only.

As a probe needs it: one question, one answer or an exception.
"""

from __future__ import annotations

import http.client
import re
import secrets
import select
import socket
import struct
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from xml.sax.saxutils import escape

from netlab.miniupnpd import HTTP_PORT, PCP_PORT
from netlab.nat import PortMapper
from netlab.node import Node

ANSWER_LIMIT = 3.0  # seconds; an answer takes some milliseconds
FIRST_TRY = 0.25  # seconds until a question is asked again, doubled each time (RFC 6886 section 3.1)
UDP = 17
SSDP = ("239.255.255.250", 1900)  # UPnP Device Architecture 2.0, section 1.3.2
SEARCH = (
    b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
)


class MapRefused(Exception):
    """The router said no; ``code`` is the protocol's own result or error code."""

    def __init__(self, protocol: PortMapper, code: int) -> None:
        super().__init__(f"{protocol.name} refused with {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Wish:
    """``internal`` port to be reached by, if possible, ``external``, for ``lifetime`` seconds; 0: no more."""

    internal: int
    external: int
    lifetime: int = 120


class Client:
    """Asks a router for ports, for ``node`` at its IPv4 address ``host`` (by default its first).

    ``gateway`` is the router's address, by default that of the default route there. Raises
    ``ConnectionError`` when there is none.
    """

    def __init__(self, node: Node, host: str | None = None, *, gateway: str | None = None) -> None:
        self._node = node
        self._host = gateway or host or node.ipv4[0]  # a router asks itself, from the same address
        self._gateway = gateway or node.call(lambda: _default_gateway(IPv4Address(self._host)))
        self._nonce = secrets.token_bytes(12)

    def map(self, protocol: PortMapper, wish: Wish) -> int:
        """The external port granted. Raises :class:`MapRefused`, ``OSError`` when nobody is there to ask."""
        match protocol:
            case PortMapper.NAT_PMP:
                return nat_pmp_answer(self._ask(nat_pmp_request(wish)))
            case PortMapper.PCP:
                return pcp_answer(self._ask(pcp_request(wish, IPv4Address(self._host), self._nonce)))
            case PortMapper.UPNP:
                return self._upnp(wish)
            case _:
                raise ValueError(f"one protocol at a time, not {protocol}")

    def is_up(self, offered: PortMapper) -> bool:
        """Whether a router's own port mapper answers, asked on the router."""
        try:
            if PortMapper.UPNP in offered:
                self._http("GET", f"http://{self._gateway}:{HTTP_PORT}/rootDesc.xml")
            else:
                self._ask(struct.pack("!BB", 0, 0))  # RFC 6886 section 3.2: which is your address?
        except ConnectionError:
            return False
        return True

    def _socket(self, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        made = self._node.socket(kind=kind)
        made.bind((self._host, 0))
        made.settimeout(ANSWER_LIMIT)
        return made

    def _ask(self, request: bytes) -> bytes:
        wait = FIRST_TRY
        with self._socket() as asking:
            asking.connect((self._gateway, PCP_PORT))
            while wait < ANSWER_LIMIT:
                asking.send(request)
                if select.select([asking], [], [], wait)[0]:
                    return asking.recv(1100)  # RFC 6887 section 7: no message is longer
                wait *= 2
        raise TimeoutError(f"{self._gateway} does not answer on port {PCP_PORT}")

    def _upnp(self, wish: Wish) -> int:
        description = self._discover()
        service, control = upnp_service(self._http("GET", description), description)
        port = {"NewRemoteHost": "", "NewExternalPort": str(wish.external), "NewProtocol": "UDP"}
        if wish.lifetime == 0:
            self._soap(control, service, "DeletePortMapping", port)
        else:
            target = {"NewInternalPort": str(wish.internal), "NewInternalClient": self._host, "NewEnabled": "1"}
            about = {"NewPortMappingDescription": "netlab", "NewLeaseDuration": str(wish.lifetime)}
            self._soap(control, service, "AddPortMapping", port | target | about)
        return wish.external

    def _discover(self) -> str:
        with self._socket() as asking:
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._host))
            asking.sendto(SEARCH, SSDP)
            answer = asking.recv(1500).decode("utf-8", "replace")
        found = re.search(r"^LOCATION:\s*(\S+)\s*$", answer, re.MULTILINE | re.IGNORECASE)
        if found is None:
            raise ConnectionError(f"no LOCATION in the answer to our search: {answer!r}")
        return found[1]

    def _soap(self, url: str, service: str, action: str, arguments: dict[str, str]) -> None:
        body = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
        envelope = (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
            ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/">'
            f'<s:Body><u:{action} xmlns:u="{service}">{body}</u:{action}></s:Body></s:Envelope>'
        )
        self._http("POST", url, envelope, {"Content-Type": "text/xml", "SOAPAction": f'"{service}#{action}"'})

    def _http(self, method: str, url: str, body: str = "", headers: dict[str, str] | None = None) -> str:
        where = urlsplit(url)
        host, port = where.hostname or self._gateway, where.port or 80
        with self._socket(socket.SOCK_STREAM) as stream:
            stream.connect((host, port))
            connection = http.client.HTTPConnection(host, port)
            connection.sock = stream
            connection.request(method, where.path, body, headers or {})
            response = connection.getresponse()
            said = response.read().decode("utf-8", "replace")
        if response.status != http.HTTPStatus.OK:
            found = re.search(r"<errorCode>\s*(\d+)", said)
            raise MapRefused(PortMapper.UPNP, int(found[1]) if found else response.status)
        return said


def _default_gateway(host: IPv4Address) -> str:
    """The default route by the interface of ``host``, in the calling thread's namespace.

    From the kernel's table of routes: interface, destination, gateway, three numbers, metric, mask, ...;
    addresses in the machine's byte order.
    """
    lines = Path("/proc/thread-self/net/route").read_text(encoding="ascii").splitlines()[1:]
    routes = [(w[0], _number(w[1]), _number(w[2]), _number(w[7])) for w in map(str.split, lines)]
    links = {where for where, to, gateway, mask in routes if not gateway and int(host) & mask == to}
    for where, to, gateway, _ in routes:
        if where in links and gateway and not to:
            return str(IPv4Address(gateway))
    raise ConnectionError(f"no default route from {host}, so no router to ask")


def _number(word: str) -> int:
    return int.from_bytes(struct.pack("=I", int(word, 16)))


def nat_pmp_request(wish: Wish) -> bytes:
    """version(1) = 0, opcode(1) = 1, reserved(2), internal port(2), external port(2), lifetime(4);
    RFC 6886 section 3.3. To have it no more, the external port is 0 too (section 3.4)."""
    external = wish.external if wish.lifetime else 0
    return struct.pack("!BBHHHI", 0, 1, 0, wish.internal, external, wish.lifetime)


def nat_pmp_answer(answer: bytes) -> int:
    """version(1), 128 + opcode(1), result(2), epoch(4), internal port(2), external port(2), lifetime(4)."""
    if answer[:2] != b"\x00\x81" or len(answer) < 8:  # a refusal may end there
        raise ConnectionError(f"no answer of NAT-PMP: {answer.hex()}")
    if result := int.from_bytes(answer[2:4]):
        raise MapRefused(PortMapper.NAT_PMP, result)
    if len(answer) != 16:
        raise ConnectionError(f"no answer of NAT-PMP: {answer.hex()}")
    return int(struct.unpack_from("!H", answer, 10)[0])


def pcp_request(wish: Wish, host: IPv4Address, nonce: bytes) -> bytes:
    """version(1) = 2, opcode(1) = 1, reserved(2), lifetime(4), client(16), RFC 6887 section 7.1; then
    nonce(12), protocol(1), reserved(3), internal port(2), external port(2), external address(16), section 11.1."""
    anyone = mapped(IPv4Address(0))
    header = struct.pack("!BBHI16s", 2, 1, 0, wish.lifetime, mapped(host))
    return header + struct.pack("!12sB3xHH16s", nonce, UDP, wish.internal, wish.external, anyone)


def pcp_answer(answer: bytes) -> int:
    """version(1), 128 + opcode(1), reserved(1), result(1), lifetime(4), epoch(4), reserved(12); then as asked."""
    if answer[:2] != b"\x02\x81" or len(answer) < 4:
        raise ConnectionError(f"no answer of PCP: {answer.hex()}")
    if answer[3]:
        raise MapRefused(PortMapper.PCP, answer[3])
    if len(answer) != 60:
        raise ConnectionError(f"no answer of PCP: {answer.hex()}")
    return int(struct.unpack_from("!H", answer, 42)[0])


def mapped(address: IPv4Address) -> bytes:
    """An IPv4-mapped IPv6 address, RFC 6887 section 5."""
    return bytes(10) + b"\xff\xff" + address.packed


def upnp_service(description: str, url: str) -> tuple[str, str]:
    """Type and control URL of the connection service in a device description at ``url``."""
    for element in ET.fromstring(description).iter():
        if not element.tag.endswith("}service"):
            continue
        values = {child.tag.partition("}")[2]: (child.text or "").strip() for child in element}
        kind = values.get("serviceType", "")
        if re.fullmatch(r"urn:schemas-upnp-org:service:WAN(IP|PPP)Connection:\d+", kind):
            return kind, urljoin(url, values.get("controlURL", ""))
    raise ConnectionError(f"no connection service in the description at {url}")
