"""Everything that goes wrong for people, in virtual time: how both sides end, and what they are told."""

from __future__ import annotations

import random

import pytest
from scenarios import Scenario
from sim.network import Impairment, TcpPipe
from sim.worlds import World

from p2p.core.address import Address
from p2p.core.errors import ExitCode, Failure
from p2p.core.peer import events
from p2p.core.peer.channel import KEEPALIVE_INTERVAL
from p2p.core.peer.peer import Peer
from p2p.core.transport.idle import IDLE_TIMEOUT

CONTENT = random.Random(2).randbytes(3_000_000)
STRANGER = Address("192.0.2.66", 6666)
FILES = {"file": CONTENT}
NATTED = Scenario("port-restricted", "port-restricted")
ONE_LAN = Scenario("port-restricted", "port-restricted", one_lan=True)
BOTH_PATHS = pytest.mark.parametrize("scenario", [NATTED, ONE_LAN], ids=["punched", "LAN"])
END_LIMIT = IDLE_TIMEOUT + 3.0  # virtual seconds in which the other side must have ended


def started(world: World, sender, receiver) -> None:
    """Runs until the first file has begun to arrive."""
    sender.start()
    receiver.start()
    world.network.run(lambda: receiver.machine.progress.done > 0, 30.0)


def until_seen(world: World, event: type, *peers, limit: float = 5.0) -> None:
    """Runs until each of `peers` has reported an `event`."""
    world.network.run(lambda: all(any(isinstance(e, event) for e in peer.events) for peer in peers), limit)


@BOTH_PATHS
def test_nothing_waits_for_a_keepalive(scenario: Scenario) -> None:
    """Every record is followed by the next as soon as the path takes it, to the very end."""
    world = World(scenario)
    sender, receiver = world.sender(FILES | {"empty": b"", "last": b"x"}), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: receiver.peer.is_done and sender.peer.is_done, 30.0)
    assert world.network.now < KEEPALIVE_INTERVAL


def test_wrong_code_is_told_to_both_and_the_sender_waits_for_the_right_one() -> None:
    world = World(NATTED)
    sender = world.sender(FILES)
    sender.start()
    wrong = world.receiver(secret=b"another-wrong-code")
    wrong.start()
    world.run(wrong, limit=5.0)
    assert wrong.exit_code is ExitCode.WRONG_CODE
    assert "try 1 of 3" in wrong.peer.failure.message
    assert events.CodeRejected(1, 3) in sender.events
    assert not sender.is_over
    right = world.receiver()
    right.start()
    world.run(sender, right, limit=30.0)
    assert (sender.exit_code, right.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert right.received == FILES


def test_three_wrong_codes_burn_the_code() -> None:
    world = World(NATTED)
    sender = world.sender(FILES)
    sender.start()
    for attempt in range(3):
        guesser = world.receiver(secret=b"wrong-code-%d" % attempt)
        guesser.start()
        world.run(guesser, limit=5.0)
        assert guesser.exit_code is ExitCode.WRONG_CODE
    world.run(sender, limit=5.0)
    assert sender.exit_code is ExitCode.WRONG_CODE
    assert "3 wrong tries" in sender.peer.failure.message
    assert "3 wrong tries" in guesser.peer.failure.message


@pytest.mark.parametrize("who", ["sender", "receiver"])
def test_two_of_a_kind_are_both_told(who: str) -> None:
    world = World(NATTED)
    first, second = world.sender(FILES), world.receiver()
    if who == "sender":
        second = world.sender_as_bob(FILES)
    else:
        first = world.receiver_as_alice()
    first.start()
    until_seen(world, events.WaitingForPeer, first)
    second.start()
    world.run(first, second, limit=10.0)
    assert (first.exit_code, second.exit_code) == (ExitCode.USAGE, ExitCode.USAGE)
    for peer in (first, second):
        assert "Both sides are" in peer.peer.failure.message


def test_a_third_peer_is_refused_and_evicts_nobody() -> None:
    world = World(NATTED)
    sender = world.sender(FILES)
    sender.start()
    until_seen(world, events.WaitingForPeer, sender)
    intruder = world.sender(FILES, port=41_000)
    intruder.start()
    world.run(intruder, limit=30.0)
    assert intruder.exit_code is ExitCode.NO_PEER
    assert events.SeatTaken() in intruder.events
    receiver = world.receiver()
    receiver.start()
    world.run(sender, receiver, limit=30.0)
    assert receiver.received == FILES


@pytest.mark.parametrize(("is_up", "words"), [(True, "No rendezvous server listens"), (False, "does not answer")])
def test_a_server_that_is_not_there_ends_with_words(is_up: bool, words: str) -> None:
    world = World()
    world.server.stop()
    world.server.host.is_up = is_up
    sender = world.sender(FILES)
    sender.start()
    world.run(sender, limit=15.0)
    assert sender.exit_code is ExitCode.NO_PEER
    assert words in sender.peer.failure.message


def test_server_restarted_while_waiting_is_found_again() -> None:
    world = World(NATTED)
    sender = world.sender(FILES)
    sender.start()
    until_seen(world, events.WaitingForPeer, sender)
    world.server.stop()
    world.network.after(8.0, world.server.restart)
    receiver = world.receiver()
    world.network.after(15.0, receiver.start)
    world.run(sender, receiver, limit=60.0)
    assert receiver.received == FILES


@BOTH_PATHS
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_killed_in_mid_transfer(scenario: Scenario, victim: str) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    started(world, sender, receiver)
    killed, other = (sender, receiver) if victim == "sender" else (receiver, sender)
    killed.kill()
    world.run(other, limit=END_LIMIT)
    assert other.exit_code is ExitCode.INTERRUPTED
    assert receiver.received == {}


@BOTH_PATHS
@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_ctrl_c_in_mid_transfer_is_told(scenario: Scenario, victim: str) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    started(world, sender, receiver)
    stopped, other = (sender, receiver) if victim == "sender" else (receiver, sender)
    stopped.fail(Failure(ExitCode.CANCELLED, "stopped"), "it was stopped by Ctrl-C over there")
    world.run(sender, receiver, limit=3.0)
    assert stopped.exit_code is ExitCode.CANCELLED
    assert other.exit_code is ExitCode.INTERRUPTED
    assert "Ctrl-C over there" in other.peer.failure.message
    assert receiver.received == {}


@BOTH_PATHS
def test_full_disk_is_told(scenario: Scenario) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    started(world, sender, receiver)
    receiver.fail(Failure(ExitCode.STORAGE, "no space left here"), "the receiver's disk is full")
    world.run(sender, receiver, limit=3.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.STORAGE, ExitCode.STORAGE)
    assert "disk is full" in sender.peer.failure.message


@BOTH_PATHS
def test_refusal_is_told(scenario: Scenario) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver(accepts=False)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.REFUSED, ExitCode.REFUSED)
    assert "said no" in sender.peer.failure.message


@BOTH_PATHS
def test_a_network_that_goes_dark_ends_both_within_the_idle_timeout(scenario: Scenario) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    started(world, sender, receiver)
    for host in world.hosts:
        host.is_up = False
    for peer in (sender, receiver):
        for pipe in peer.attempt.pipes.values():
            pipe.other = pipe  # what is written goes nowhere
            pipe.on_data = lambda _: None
    world.run(sender, receiver, limit=END_LIMIT)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.INTERRUPTED, ExitCode.INTERRUPTED)
    assert "12 seconds" in sender.peer.failure.message


def test_a_peer_that_is_there_and_says_nothing_is_told() -> None:
    world = World(NATTED)
    receiver = world.receiver()
    receiver.start()
    until_seen(world, events.WaitingForPeer, receiver)
    sender = world.sender(FILES)
    sender.start()
    until_seen(world, events.PeerFound, receiver)
    sender.kill()
    until_seen(world, events.PeerSilent, receiver, limit=10.0)
    assert not receiver.is_over


def test_a_seat_that_is_lost_after_the_keys_ends_nothing() -> None:
    """The server forgets everybody and a stranger takes bob's seat while both still look for a path."""
    world = World(Scenario("symmetric", "symmetric"))
    sender, receiver = world.sender(FILES), world.receiver()
    sender.start()
    receiver.start()
    until_seen(world, events.Connecting, sender, receiver)
    world.server.restart()
    world.sender_as_bob(FILES, port=42_000).start()
    world.run(sender, receiver, limit=15.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.NO_PATH, ExitCode.NO_PATH)


def test_ctrl_c_before_a_path_exists_is_told_through_the_server() -> None:
    world = World(Scenario("symmetric", "symmetric"))
    sender, receiver = world.sender(FILES), world.receiver()
    sender.start()
    receiver.start()
    until_seen(world, events.Connecting, sender, receiver)
    receiver.fail(Failure(ExitCode.CANCELLED, "stopped"), "it was stopped by Ctrl-C over there")
    world.run(sender, receiver, limit=3.0)
    assert sender.exit_code is ExitCode.INTERRUPTED
    assert "Ctrl-C over there" in sender.peer.failure.message


@pytest.mark.parametrize("seed", range(3))
def test_without_a_code_both_screens_show_the_same_words(seed: int) -> None:
    world = World(NATTED, seed)
    sender, receiver = world.sender(FILES, secret=None), world.receiver(secret=None)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=30.0)
    words = [e.verification for peer in (sender, receiver) for e in peer.events if isinstance(e, events.Connecting)]
    assert len(words) == 2
    assert words[0] == words[1] is not None
    assert receiver.received == FILES


def test_no_code_against_a_code_ends_on_both_sides() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES, secret=None), world.receiver()
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.USAGE, ExitCode.USAGE)


def test_a_stranger_at_the_tcp_port_gets_nothing_and_delays_nobody() -> None:
    world = World(ONE_LAN)
    sender, receiver = world.sender(FILES), world.receiver()
    heard: list[bytes] = []
    for _ in range(40):
        for host in world.hosts:
            accept = host.tcp[40_001]

            def call(accept=accept) -> None:
                near, far = TcpPipe(world.network, STRANGER), TcpPipe(world.network, STRANGER)
                near.other, far.other = far, near
                near.on_data = heard.append
                accept(far)
                near.write(b"p2pt\x01" + bytes(48))

            world.network.after(0.02 + 0.001 * world.network.rng.random(), call)
            world.network.after(0.15 + 0.1 * world.network.rng.random(), call)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=5.0)
    assert receiver.received == FILES
    assert receiver.path.description.startswith("direct TCP")
    assert heard == []


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_turns_very_bad_still_delivers(seed: int) -> None:
    """From the moment that a path exists, two packets in five arrive whole."""
    world = World(NATTED, seed)
    sender, receiver = world.sender({"file": CONTENT[:100_000]}), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.path is not None and receiver.path is not None, 30.0)
    for host in world.hosts:
        host.impairment = Impairment(loss=0.5, duplicate=0.2, reorder=0.5, corrupt=0.2)
    world.run(sender, receiver, limit=600.0)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert receiver.received == {"file": CONTENT[:100_000]}


def test_ctrl_c_before_the_first_word_is_told_over_the_new_path() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: sender.path is not None, 30.0)
    sender.fail(Failure(ExitCode.CANCELLED, "stopped"), "it was stopped by Ctrl-C over there")
    world.run(receiver, limit=END_LIMIT)
    assert receiver.exit_code is ExitCode.INTERRUPTED
    assert "Ctrl-C over there" in receiver.peer.failure.message


def test_silence_right_after_the_nomination_ends_the_receiver() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES), world.receiver()
    sender.start()
    receiver.start()
    connecting = lambda: receiver.peer._course.connecting  # noqa: E731
    world.network.run(lambda: connecting() is not None and connecting()._punched is not None, 30.0)
    world.hosts[0].is_up = False
    sender.kill()
    world.run(receiver, limit=END_LIMIT)
    assert receiver.exit_code is ExitCode.INTERRUPTED
    assert "12 seconds" in receiver.peer.failure.message


def test_the_last_word_arrives_although_the_network_was_dark_for_a_while() -> None:
    world = World(NATTED)
    sender, receiver = world.sender(FILES), world.receiver()
    sender.start()
    receiver.start()
    world.network.run(lambda: receiver.peer.is_done, 30.0)
    world.hosts[0].is_up = False

    def light() -> None:
        world.hosts[0].is_up = True

    world.network.after(5.0, light)
    world.run(sender, receiver, limit=END_LIMIT)
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.DONE, ExitCode.DONE)


def test_the_invitation_is_shown_although_somebody_with_a_wrong_code_was_there_first() -> None:
    world = World(NATTED)
    wrong = world.receiver(secret=b"another-wrong-code")
    wrong.start()
    until_seen(world, events.WaitingForPeer, wrong)
    sender = world.sender(FILES)
    sender.start()
    world.run(wrong, limit=5.0)
    until_seen(world, events.WaitingForPeer, sender)
    assert events.CodeRejected(1, 3) in sender.events
    assert sum(isinstance(e, events.WaitingForPeer) for e in sender.events) == 1


def test_tcp_is_found_although_only_the_sender_can_be_connected_to() -> None:
    """The receiver has its keys first, so its connection comes before the sender knows what to do with it."""
    world = World(ONE_LAN)
    sender, receiver = world.sender(FILES), world.receiver()
    world.hosts[1].tcp.clear()
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    assert receiver.received == FILES
    assert receiver.path.description.startswith("direct TCP")


@BOTH_PATHS
def test_nothing_is_to_be_written_after_the_disk_has_failed(scenario: Scenario) -> None:
    """What one record brings comes together: when the first fails, there is nothing that the others could go to."""
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    left: list[object] = []

    def drive_files(peer: Peer, now: float) -> None:
        if receiver.machine.poll_action() is not None:
            peer.fail(Failure(ExitCode.STORAGE, "cannot store it"), "it cannot store it", now)
            left.append(receiver.machine.poll_action())

    receiver.drive_files = drive_files
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    assert left == [None]
    assert (sender.exit_code, receiver.exit_code) == (ExitCode.STORAGE, ExitCode.STORAGE)


def test_forged_checks_are_not_called_packets_of_the_other_side() -> None:
    """Nothing comes through but what looks like a check and is not: both read the true reason."""
    world = World(NATTED)
    peers = world.sender(FILES), world.receiver()
    for peer in peers:
        peer.start()
    world.network.run(lambda: all(any(isinstance(e, events.Connecting) for e in p.events) for p in peers), 5.0)
    for host in world.hosts:
        host.is_up = False
    for peer in peers:
        peer.receive(b"\xc0" + bytes(29), STRANGER)
    world.run(*peers, limit=END_LIMIT)
    for peer in peers:
        assert peer.exit_code is ExitCode.NO_PATH
        assert "no packet of the other side came through" in peer.peer.failure.message


@BOTH_PATHS
@pytest.mark.parametrize("version", [1, 3])
def test_a_program_of_another_version_is_named_on_both_screens(scenario: Scenario, version: int) -> None:
    world = World(scenario)
    sender, receiver = world.sender(FILES), world.receiver()
    records = iter([bytes([1, version]) + bytes.fromhex("00000001 0000000000000003")])
    sender.machine.poll_record = lambda: next(records, None)
    sender.start()
    receiver.start()
    world.run(sender, receiver, limit=10.0)
    for peer in (sender, receiver):
        assert peer.exit_code is ExitCode.INTERNAL
        assert f"version {version}" in peer.peer.failure.message
        assert "update" in peer.peer.failure.message
        assert "again" not in peer.peer.failure.message  # which would not help
