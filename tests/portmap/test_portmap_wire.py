"""What the three protocols look like on the wire, against figures of RFC 6886 and RFC 6887 written out by hand."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from portmap.fake_router import describe

from p2p.core.address import Address
from p2p.core.errors import DecodeError
from p2p.core.portmap import http, nat_pmp, pcp, upnp, xml
from p2p.core.portmap.epoch import Epoch
from p2p.core.portmap.http import Response, ResponseReader, Url, parse_url
from p2p.core.portmap.routes import gateway_of, likely_gateway

NONCE = bytes(range(12))
CLIENT = bytes(10) + b"\xff\xff\xc0\xa8\x01\x0a"
HOST = "192.168.1.1"
BASE = Url(Address(HOST, 5000), "/dir/root.xml")


# RFC 6886


def test_nat_pmp_requests() -> None:
    assert nat_pmp.encode(nat_pmp.AddressRequest()).hex() == "0000"  # section 3.2
    request = nat_pmp.MapRequest(internal=5000, external=6000, lifetime=3600)
    assert nat_pmp.encode(request).hex() == "00 01 0000 1388 1770 00000e10".replace(" ", "")  # section 3.3
    assert nat_pmp.encode(nat_pmp.MapRequest(5000, 0, 0)).hex() == "000100001388000000000000"  # section 3.4


def test_nat_pmp_answers() -> None:
    address = bytes.fromhex("00 80 0000 00000064 08080404")
    assert nat_pmp.decode(address) == nat_pmp.AddressAnswer(epoch=100, host="8.8.4.4")
    mapped = bytes.fromhex("00 81 0000 00000064 1388 1770 00000e10")
    assert nat_pmp.decode(mapped) == nat_pmp.MapAnswer(100, internal=5000, external=6000, lifetime=3600)
    assert nat_pmp.decode(mapped + bytes(40)) == nat_pmp.decode(mapped)
    assert nat_pmp.decode(bytes.fromhex("00 81 0003 00000064")) == nat_pmp.ErrorAnswer(opcode=1, result=3)


@pytest.mark.parametrize(
    "text", ["", "00", "0080", "00800000", "008000000000006408", "02800000", "00010000", "00820000"]
)
def test_what_is_no_answer_of_nat_pmp(text: str) -> None:
    with pytest.raises(DecodeError):
        nat_pmp.decode(bytes.fromhex(text))


# RFC 6887


def test_pcp_requests() -> None:
    announce = pcp.encode(pcp.AnnounceRequest("192.168.1.10"))
    assert announce == bytes.fromhex("02 00 0000 00000000") + CLIENT  # section 7.1, opcode of section 14
    request = pcp.encode(pcp.MapRequest("192.168.1.10", 3600, NONCE, internal=5000, external=6000))
    opcode = NONCE + bytes.fromhex("11 000000 1388 1770") + bytes(10) + b"\xff\xff" + bytes(4)  # figure of section 11.1
    assert request == bytes.fromhex("02 01 0000 00000e10") + CLIENT + opcode
    assert len(request) == 60


def test_pcp_answers() -> None:
    header = bytes.fromhex("02 81 00 00 00000e10 00000064") + bytes(12)  # section 7.2
    opcode = NONCE + bytes.fromhex("11 000000 1388 1770") + bytes(10) + b"\xff\xff\x08\x08\x04\x04"
    found = pcp.decode(header + opcode)
    assert found == pcp.MapAnswer(100, 3600, NONCE, 17, internal=5000, external=6000, external_host="8.8.4.4")
    assert pcp.decode(header + opcode + bytes(4)) == found, "an option"
    announced = bytes.fromhex("02 80 00 00 00000000 00000064") + bytes(12)
    assert pcp.decode(announced) == pcp.Announced(100)
    refused = bytes.fromhex("02 81 00 08 0000001e 00000064") + bytes(12)
    assert pcp.decode(refused + NONCE) == pcp.ErrorAnswer(2, 1, result=8, lifetime=30, nonce=NONCE)
    assert pcp.decode(refused) == pcp.ErrorAnswer(2, 1, 8, 30, None)
    other_version = bytes.fromhex("01 81 00 01 0000001e 00000064") + bytes(12)
    assert pcp.decode(other_version) == pcp.ErrorAnswer(1, 1, pcp.UNSUPP_VERSION, 30, None)


@pytest.mark.parametrize("data", [b"", bytes(24), b"\2\1" + bytes(58), b"\2\x82" + bytes(58), b"\2\x81" + bytes(57),
                                  b"\2\x81" + bytes(58), b"\2\x80" + bytes(1200)])  # fmt: skip
def test_what_is_no_answer_of_pcp(data: bytes) -> None:
    with pytest.raises(DecodeError):
        pcp.decode(data)


@pytest.mark.parametrize(
    ("heard", "restarts"),
    [
        ([(100, 0.0), (160, 60.0)], False),
        ([(100, 0.0), (99, 0.5)], False),  # overtaken
        ([(100, 0.0), (98, 0.5)], True),
        ([(100, 0.0), (3, 60.0)], True),
        ([(100, 0.0), (150, 60.0)], True),  # 10 s too few in a minute
        ([(100, 0.0), (157, 60.0)], False),
        ([(100, 0.0), (260, 60.0)], True),  # 100 s too many
    ],
)
def test_an_epoch_that_does_not_go_on_is_a_restart(heard: list[tuple[int, float]], restarts: bool) -> None:
    epoch = Epoch()
    assert [epoch.has_restarted(*each) for each in heard] == [False, restarts]


# UPnP


def test_searches() -> None:
    target = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    assert upnp.search(target, upnp.SSDP_GROUP) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
    assert b"MX" not in upnp.search(target, Address(HOST, 1900))


def test_an_answer_to_a_search() -> None:
    answer = b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nlocation:http://192.168.1.1:5000/dir/root.xml\r\nEXT:\r\n\r\n"
    assert upnp.parse_search_answer(answer, HOST) == BASE
    for wrong in (b"", answer[:30], b"NOTIFY * HTTP/1.1" + answer[15:], answer + bytes(2048)):
        with pytest.raises(DecodeError):
            upnp.parse_search_answer(wrong, HOST)
    with pytest.raises(DecodeError, match="leads elsewhere"):
        upnp.parse_search_answer(answer, "192.168.1.2")


@pytest.mark.parametrize(
    ("text", "found"),
    [("/ctl", "/ctl"), ("ctl?a=b", "/dir/ctl?a=b"), ("http://192.168.1.1:5000/x", "/x"), ("../up", "/up")],
)
def test_urls_on_the_device_itself(text: str, found: str) -> None:
    assert parse_url(text, HOST, BASE) == Url(Address(HOST, 5000), found)


@pytest.mark.parametrize(
    "text",
    [
        "http://192.168.1.2/", "//192.168.1.2/", "https://192.168.1.1/", "javascript:alert(1)", "http://u:p@192.168.1.1/",
        "http://192.168.1.1:x/", "http://[", "/a b", "/ä", "/" + "a" * 600, "http://192.168.1.1@192.168.1.2/",
        "http://192.168.1.1\\@evil/", "http://3232235777/", "/a\x7f",
    ],
)  # fmt: skip
def test_urls_that_lead_elsewhere_or_nowhere(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_url(text, HOST, BASE)


def test_a_url_puts_no_line_into_a_request() -> None:
    url = parse_url("/a\r\nX-Evil:1", HOST, BASE)  # urlsplit takes line ends out
    assert http.get(url).count(b"\r\n") == 4


def test_services_of_a_description() -> None:
    kind = "urn:schemas-upnp-org:service:WANPPPConnection:1"
    service = upnp.Service(kind, Url(Address(HOST, 5000), "/ctl"))
    assert upnp.parse_services(Response(200, describe(kind)), BASE) == [service]
    elsewhere = describe(kind, "ctl", base=f"http://{HOST}:80/b/")
    assert upnp.parse_services(Response(200, elsewhere), BASE)[0].control == Url(Address(HOST, 80), "/b/ctl")
    latin = describe(kind).replace(b"Box", b"B\xf6x") + b"\0\0"
    assert upnp.parse_services(Response(200, latin), BASE) == [service]


@pytest.mark.parametrize(
    "response",
    [
        Response(302, b""),
        Response(404, describe()),
        Response(200, b""),
        Response(200, b"<a>"),
        Response(200, b"<root/>"),
        Response(200, describe("urn:schemas-upnp-org:service:WANIPConnection:1\r\nX: y")),
        Response(200, describe(control="http://192.168.1.2/ctl")),
        Response(200, describe(base="http://192.168.1.2/")),
    ],
)
def test_descriptions_that_are_refused(response: Response) -> None:
    with pytest.raises(DecodeError):
        upnp.parse_services(response, BASE)


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'
OUTSIDE = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        OUTSIDE,
        b'<!DOCTYPE a SYSTEM "http://x/"><a/>',
        b"<a>" * 30 + b"</a>" * 30,
        b"<r>" + b"<a/>" * 3000 + b"</r>",
        b"<a>" + b"x" * 70_000 + b"</a>",
        b"<a>&b;</a>",
        b"<a></b>",
        b"",
        b"\xff\xfe<\0a\0/\0>\0",
    ],
)
def test_xml_that_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        xml.parse(data)


def test_a_fault_is_told_with_its_code_and_in_words_that_cannot_hurt() -> None:
    body = (
        b"<e><errorCode>718</errorCode><errorDescription>Conf\xe2\x80\xaelict" + b"x" * 500 + b"</errorDescription></e>"
    )
    with pytest.raises(upnp.SoapFault, match=r"error 718 \(Conf\\u202elict") as caught:
        upnp.parse_result(Response(500, body))
    assert caught.value.code == 718
    assert len(str(caught.value)) < 100
    for nonsense in (b"", b"<e><errorCode>no</errorCode></e>", b"<html>", b"<e><errorCode>999999999</errorCode></e>"):
        with pytest.raises(upnp.SoapFault, match=r"error 500$"):
            upnp.parse_result(Response(500, nonsense))


@pytest.mark.parametrize("value", ["0", "65536", "-1", "1e3", "", "٣", "99999999999"])
def test_ports_that_are_none(value: str) -> None:
    with pytest.raises(DecodeError):
        upnp.port_of(xml.parse(f"<a><P>{value}</P></a>".encode()), "P")


WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    "continued": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200\r\nContent-Length:5\r\n\r\nhello",
    "closed": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_of_http_in_any_pieces(name: str, size: int) -> None:
    reader, data = ResponseReader(), WHOLE[name]
    found = [reader.feed(data[start : start + size]) for start in range(0, len(data), size)]
    whole = next((each for each in found if each is not None), None)
    assert whole == Response(200, b"hello") if name != "closed" else reader.end() == Response(200, b"hello")


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0\r\n\r\n",
        OK + b"X: " + b"x" * 9000,
        OK + b"Content-Length: 99999\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        CHUNKED + b"fffffff\r\n",
        OK + b"\r\n" + b"x" * 70_000,
        CHUNKED + b"x" * 99,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 7000,
        CHUNKED + b"1\r\nx\r\n" * 40_000,
    ],
)
def test_answers_of_http_that_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        ResponseReader().feed(data)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"])
def test_an_answer_that_is_cut_short(data: bytes) -> None:
    reader = ResponseReader()
    assert reader.feed(data) is None
    with pytest.raises(DecodeError, match="cut short"):
        reader.end()


@given(start=st.sampled_from([*WHOLE.values(), b"", b"HTTP/1.1 500 X\r\n\r\n" + BOMB]), cut=st.integers(0, 80),
       rest=st.binary(max_size=200))  # fmt: skip
def test_any_bytes_of_a_device_are_answers_or_decode_errors(start: bytes, cut: int, rest: bytes) -> None:
    reader = ResponseReader()
    with contextlib.suppress(DecodeError, upnp.SoapFault):
        response = reader.feed(start[:cut] + rest) or reader.end()
        upnp.parse_result(response)
        upnp.parse_services(response, BASE)
    with contextlib.suppress(DecodeError):
        upnp.parse_search_answer(start[:cut] + rest, HOST)


@given(text=st.text(max_size=60), body=st.text(max_size=80))
def test_any_text_of_a_device_is_read_or_refused(text: str, body: str) -> None:
    for base in (None, BASE):
        with contextlib.suppress(DecodeError):
            assert parse_url(text, HOST, base).address.host == HOST
    with contextlib.suppress(DecodeError):
        xml.parse(f"<a>{body}</a>".encode("utf-8", "replace"))


# Routes

HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
LAN = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
MOBILE = "wwan0\t00000000\t0102A8C0\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
HALF = "tun0\t{}\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n"
VPN = HALF.format("00000000") + HALF.format("00000080")


@pytest.mark.parametrize(
    ("table", "towards", "gateway"),
    [
        (HEAD + LAN + DEFAULT, "8.8.8.8", "192.168.1.1"),
        (HEAD + MOBILE + DEFAULT, "8.8.8.8", "192.168.1.1"),  # the lower metric
        (HEAD + MOBILE + LAN + DEFAULT, "192.168.1.77", "192.168.1.1"),  # a server in one's own house
        (HEAD + LAN + DEFAULT + VPN, "8.8.8.8", None),  # all goes into the tunnel
        (HEAD + LAN, "8.8.8.8", None),
        (HEAD + DEFAULT.replace("0003", "0002"), "8.8.8.8", None),  # down
        (HEAD + "nonsense\n\n" + "x y z\n" + DEFAULT.replace("0101A8C0", "ZZ"), "8.8.8.8", None),
        ("", "8.8.8.8", None),
    ],
)
def test_the_router_on_the_way(table: str, towards: str, gateway: str | None) -> None:
    assert gateway_of(table, towards, little_endian=True) == gateway


def test_a_likely_router() -> None:
    assert likely_gateway("192.168.7.20") == "192.168.7.1"
    assert likely_gateway("192.168.7.1") is None
    assert likely_gateway("8.8.8.8") is None
    assert likely_gateway("127.0.0.1") is None
