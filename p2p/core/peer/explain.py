"""Every sentence in which a run ends: what happened, to whom or where, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Set
from typing import assert_never

from p2p.core.address import Address, is_private
from p2p.core.calling import PEER_PROGRAM, command, option
from p2p.core.errors import ExitCode, InternalError
from p2p.core.introduction import NamePair, Nameplate, Pairing, RefusedReason
from p2p.core.punch.description import Kind
from p2p.core.punch.events import How, Selected
from p2p.core.role import Role
from p2p.core.session.messages import Reason
from p2p.core.text import escape

_DOING = {Role.SENDER: "sending", Role.RECEIVER: "receiving"}
_SHOULD = {Role.SENDER: "recv", Role.RECEIVER: "send"}


def server_unreachable(server: Address, *, refused: bool) -> str:
    if refused:
        return (
            f"No rendezvous server listens at {server}. Check {option('--server (or P2P_SERVER)')}, "
            "or start one there: python -m p2p.server"
        )
    return (
        f"The rendezvous server at {server} does not answer. Check "
        f"{option('--server (or P2P_SERVER)')}, your network, "
        "and that the server runs"
    )


def nobody_came(seconds: float) -> str:
    unit = "second" if seconds == 1 else "seconds"
    return f"The other side did not come within {seconds:g} {unit}. Run both commands again"


def nobody_on_this_network(seconds: float, *, others: int, version: int | None) -> str:
    """`others` wait here too, but not for us; `version` of the protocol is spoken by somebody here, and not by us."""
    unit = "second" if seconds == 1 else "seconds"
    nobody = f"The other side was not found on this network within {seconds:g} {unit}"
    if version is not None:
        return f"{nobody}. Somebody here runs another version of p2p: if that is the other side, update both"
    if others:
        waiting = "One other p2p waits" if others == 1 else f"{others} others wait"
        return (
            f"{nobody}. {waiting} here, but not for these names or this code: check both commands. "
            f"If the other side is on another network, use {option('--server')} on both"
        )
    return (
        f"{nobody}, and nobody else either. Are both on the same network, and is the other command running? "
        "Guest Wi-Fi often keeps machines apart, and so may a firewall or a VPN; "
        f"then use {option('--server')} on both"
    )


def udp_blocked(server: Address) -> str:
    return (
        f"UDP is blocked on this network: the server at {server} answers on TCP but not on UDP. "
        "No direct path can be made from here; try another network (a phone's hotspot, say) or allow outgoing UDP"
    )


def outdated(who: str, version: int) -> str:
    return f"{who} speaks protocol version {version}, this program another: please update p2p on both ends".capitalize()


def outdated_over_there(version: int) -> str:
    """For the side that speaks this version."""
    return f"it does not speak protocol version {version}, as this side does: please update p2p on both ends"


def senseless_description(error: Exception) -> str:
    return f"The other side describes itself in a way unknown here ({error}): please update p2p on both ends"


def refused(reason: RefusedReason, pairing: Pairing, role: Role) -> tuple[ExitCode, str]:
    match reason:
        case RefusedReason.TAKEN:
            return ExitCode.NO_PEER, (
                f"Somebody else is already there as {_seat(pairing, role)}, and stayed. "
                "Use other names, or stop the other program"
            )
        case RefusedReason.SAME_ROLE:
            return ExitCode.USAGE, (
                f"Both sides are {_DOING[role]}: the other side runs `{_SHOULD[role.other]}` too. "
                f"One of you has to run `{_SHOULD[role]}` instead"
            )
        case RefusedReason.SERVER_FULL:
            return ExitCode.NO_PEER, "The rendezvous server is full. Try again in a minute, or use another server"
        case RefusedReason.NETWORK_FULL:
            return ExitCode.NO_PEER, (
                "The rendezvous server holds too many requests from your network already. "
                "Try again in a minute, or use another server"
            )
        case RefusedReason.BAD_NAMES:
            return ExitCode.USAGE, "The server does not take these names: use two different ones of 1 to 64 bytes each"
        case RefusedReason.NOT_JOINED:
            return ExitCode.NO_PEER, "The rendezvous server has forgotten us. Run the command again"
        case _:
            assert_never(reason)


def rejected(reason: Reason, tries: int, limit: int) -> tuple[ExitCode, str]:
    match reason:
        case Reason.WRONG_CODE:
            left = limit - tries
            return ExitCode.WRONG_CODE, (
                f"Wrong code: that was try {tries} of {limit}. "
                f"Check the words on the other screen and run the command again; {left} more {_tries(left)} allowed"
            )
        case Reason.BURNT:
            return ExitCode.WRONG_CODE, code_burnt(tries)
        case Reason.MODE_MISMATCH:
            return ExitCode.USAGE, (
                f"One side uses {option('--no-code')} and the other a code. "
                f"Use {option('--no-code')} on both sides or on none"
            )
        case Reason.CONTACT_MISMATCH:
            return ExitCode.USAGE, (
                "The other side uses the key by which it remembers you, and this side a code, or "
                f"{option('--no-code')}. "
                "If you remember it too, leave the code out; if not, have it run "
                f"`{PEER_PROGRAM} contacts forget` with your name, and then both use a code"
            )
        case Reason.VERSION:
            return ExitCode.INTERNAL, "The other side speaks another protocol version: please update p2p on both ends"
        case _:
            assert_never(reason)


def rejected_contact(reason: Reason, friend: str) -> tuple[ExitCode, str]:
    """The same where we used the key by which we remember `friend`. Not authenticated: it must not make anybody forget
    without asking."""
    match reason:
        case Reason.WRONG_CODE | Reason.BURNT:
            return ExitCode.WRONG_CODE, key_not_shared(friend)
        case Reason.CONTACT_MISMATCH | Reason.MODE_MISMATCH:
            name = escape(friend)
            return ExitCode.USAGE, (
                f"You remember {name}, and used that key, but the other side uses a code, or "
                f"{option('--no-code')}. If {name} was given a code, leave it out there; "
                f"if {name} says that it does not remember you (any more), {_forget(friend)}, and then both use a code"
            )
        case Reason.VERSION:
            return rejected(reason, 0, 0)
        case _:
            assert_never(reason)


def key_not_shared(friend: str) -> str:
    return (
        f"The other side does not have the key by which you remember {escape(friend)}: it is somebody else, or has "
        f"remembered you anew since. Ask {escape(friend)}; if it has, {_forget(friend)}, and then both use a code and "
        f"{option('--remember')}"
    )


def _forget(friend: str) -> str:
    return f"run `{command('contacts forget ' + shlex.quote(escape(friend)))}`"


def code_burnt(tries: int, *, with_code: bool = True) -> str:
    if not with_code:
        return (
            f"{tries} attempts to agree on keys were broken off by the other side, which honest programs do not do. "
            f"Use a code instead of {option('--no-code')}"
        )
    return (
        f"Wrong code: {tries} wrong tries were made, the code is used up and nobody can get in with it. "
        "Start again with a new code"
    )


def told(exit_code: int, reason: str) -> tuple[ExitCode, str]:
    """How the other side's end is our end."""
    code = exit_code if exit_code in _SHARED_ENDS else ExitCode.INTERRUPTED
    return ExitCode(code), f"The other side ended: {escape(reason)}" if reason else "The other side ended, unexplained"


def told_on_a_path(exit_code: int, reason: str) -> tuple[ExitCode, str]:
    """The same, where what has arrived can be gone on with."""
    code, words = told(exit_code, reason)
    again = "run both commands again, and they go on with what has arrived"
    if code is ExitCode.STORAGE:
        return code, f"{words}. Once that is mended over there, {again}"
    return code, f"{words}. {again.capitalize()}" if code is ExitCode.INTERRUPTED else words


def refused_by_peer(exit_code: int, reason: str) -> tuple[ExitCode, str]:
    code = ExitCode.STORAGE if exit_code == ExitCode.STORAGE else ExitCode.REFUSED
    return code, f"The other side refused: {escape(reason)}" if reason else "The other side refused the files"


# Ends that mean the same on both sides; any other end over there is an interruption here. INTERNAL crosses where the
# two programs do not fit each other, which no second run mends; a program that broke down says INTERRUPTED.
_SHARED_ENDS = (
    ExitCode.INTERNAL,
    ExitCode.WRONG_CODE,
    ExitCode.REFUSED,
    ExitCode.NO_PATH,
    ExitCode.INTEGRITY,
    ExitCode.STORAGE,
)


def no_path(why: str, relay: str) -> str:
    """`why` there is no direct one, and why the server does not forward it either, as half sentences."""
    return (
        f"No path: {why}; {relay}. Put one side on another network (a phone's hotspot, say), "
        f"or switch on port opening (UPnP) in one router; `{command('doctor')}` says what stands in the way"
    )


def internal_error(error: Exception) -> str:
    what = str(error) if isinstance(error, InternalError) else type_and_text(error)
    return f"Internal error: {escape(what)}. This is a mistake in p2p; please report it"


def system_refuses(error: OSError) -> str:
    return f"The system refuses what is needed: {escape(str(error))}"


def failed_over_there(error: Exception) -> str:
    """Half a sentence for the other side, which is not to read what files and folders are called here."""
    if isinstance(error, OSError):
        return f"its system refused what is needed ({error.strerror or type(error).__name__})"
    return "its program failed, by a mistake of its own"


def type_and_text(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# Why a path was lost, as half sentences.


def send_refused(destination: Address, why: str) -> str:
    return f"this machine does not let packets out to {destination}: {why}"


def path_lost(silence: float) -> str:
    return f"nothing came from the other side for {silence:.0f} seconds"


def connection_closed() -> str:
    return "the other side went away without a word"


def damaged(what: str) -> str:
    return f"what came was not what the other side sent ({what})"


def addresses_changed(*, has_network: bool) -> str:
    return "this machine is on another network" if has_network else "this machine has no network"


def both_suspect() -> str:
    return "neither side hears the other any more"


OTHER_CODE = (
    "Somebody is there in the place of the other side, but without the code. If its program was started again, with a "
    "new one: stop this one (Ctrl-C), and run it with that code; it goes on with what has arrived."
)


def cannot_start_over(role: Role) -> str:
    what = "what came out of a pipe" if role is Role.SENDER else "what went into a pipe"
    return f"The other side's program was started again, and {what} cannot be gone on with. Run both commands again"


def lost_before_the_yes(why: str, role: Role) -> str:
    advice = "the command over there has to be run again" if role is Role.SENDER else "run the command again"
    return f"The connection was lost before anything was sent ({why}); {advice}"


def lost_for_good(why: str) -> str:
    return (
        f"The connection was lost: {why}. Its program or its network went away; "
        "run both commands again, and they go on with what has arrived"
    )


def no_common_version(local: Set[int], remote: Set[int], *, relay: str) -> str:
    """Of the Internet Protocol; `local` and `remote` have one each, or none. `relay`: as for `no_path`."""
    names = {4: "IPv4 only", 6: "IPv6 only"}
    ours, theirs = (names.get(next(iter(each), 0), "no address outside itself") for each in (local, remote))
    return (
        f"No path: your network has {ours}, the other side's {theirs}, and the two cannot speak to each other; "
        f"{relay}. Put one side on a network that has both"
    )


def udp_path(selected: Selected, reason: str) -> str:
    """`reason`: why a relayed path is not a direct one."""
    milliseconds = f"{selected.rtt * 1000:.0f} ms"
    match selected.how:
        case How.RELAY:
            return f"relay {milliseconds} ({reason})"
        case How.PLAIN:
            how = "no NAT between" if selected.kind is Kind.HOST else "punched"
        case How.LEARNED:
            how = "punched, port learned from a check"
        case How.PREDICTED:
            how = "punched, port predicted"
        case How.BIRTHDAY:
            how = "punched, port found by trying many"
        case How.MAPPED:
            how = "port opened by the router"
        case _:
            assert_never(selected.how)
    version = "IPv6, " if ":" in selected.address.host else ""
    return f"direct UDP {milliseconds} ({version}{how})"


def tcp_path(address: Address) -> str:
    return "direct TCP (LAN)" if is_private(address.host) else "direct TCP (UDP does not get through)"


def _tries(count: int) -> str:
    return "try is" if count == 1 else "tries are"


def _seat(pairing: Pairing, role: Role) -> str:
    match pairing:
        case NamePair(me, friend):
            return f"{escape(me)!r} for {escape(friend)!r}"
        case Nameplate():
            return f"the {role.name.lower()} with this code"
        case _:
            assert_never(pairing)
