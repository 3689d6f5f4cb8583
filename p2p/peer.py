"""`python -m p2p.peer send|recv|contacts|doctor`: files straight to another machine, and what is in the way."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports below, in which Ctrl-C would be a traceback
    from p2p import scripts

    sys.exit(scripts.peer())

import argparse
import io
import os
from collections.abc import Sequence
from typing import NoReturn

from p2p import __version__
from p2p.core.amount import parse_rate
from p2p.core.calling import PEER_PROGRAM, spoken
from p2p.core.errors import CallerError, ExitCode, P2PError
from p2p.core.transport.idle import IDLE_TIMEOUT, KEEPALIVE_INTERVAL, MIN_IDLE_TIMEOUT

_HELP = argparse.RawDescriptionHelpFormatter
DESCRIPTION = """\
Send files straight from one machine to another:
no upload, no account, encrypted end to end."""
SEND_WAYS = (
    "send [options] ME FRIEND PATH...",
    "send [options] PATH",
    "send [options] [ME FRIEND] --text TEXT",
    "send [options] [ME FRIEND] --from-command COMMAND",
)
RECV_WAYS = ("recv [options] ME FRIEND", "recv [options] CODE")
EXAMPLES = (
    ("send holiday/", "makes a code, and says what the other side runs"),
    ("recv 7-amber-walnut-tiger", "takes what is sent with that code"),
    ("send alice bob holiday/ notes.txt", "by two names; bob runs: recv bob alice"),
)
SEND_EXAMPLES = (
    *EXAMPLES[::2],
    ("send --text 'See you at eight' alice bob", "a text, which the other screen shows"),
)
RECV_EXAMPLES = (
    EXAMPLES[1],
    ("recv --out inbox bob alice", "by two names; alice runs: send alice bob PATH"),
    ("recv --wait --accept-from alice:2G bob alice", "unattended: one after the other"),
)
PROGRAMS = ("p2p", "p2p-server")
RECONNECT_PATIENCE = 15 * 60.0  # seconds; a laptop that is carried from one place to the next
EXIT_CODES = """\
exit codes:
  0 done, 1 internal, 2 usage, 3 no peer or timed out,
  4 wrong code, 5 refused, 6 no path, 7 interrupted,
  8 integrity, 9 disk or permission, 130 Ctrl-C"""
DOCTOR_EXIT_CODES = "exit codes: 0 something could be found out, 2 usage, 3 nobody who was asked answers, 130 Ctrl-C"


def main(arguments: list[str] | None = None, program: str = PEER_PROGRAM) -> int:
    """Returns the exit code. `program`: how the person has called it."""
    _open_missing_streams()
    try:
        options = parse(arguments, program)
        if options.command == "doctor":
            from p2p.io import doctor  # noqa: PLC0415  (so that --help answers at once)

            return int(doctor.run(options))
        if options.command == "contacts":
            from p2p.io import contacts_command  # noqa: PLC0415

            return int(contacts_command.run(options))
        if options.command in ("completion", "man"):
            return _print(options)
        from p2p.io.run import run  # noqa: PLC0415

        return int(run(options))
    except CallerError as error:
        print(spoken(_sentence(str(error)), program), file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return ExitCode.CANCELLED
    except OSError as error:
        print(f"The system refuses what is needed: {error}.", file=sys.stderr)
        return ExitCode.INTERNAL
    except P2PError as error:
        from p2p.core.peer.explain import internal_error  # noqa: PLC0415

        print(f"{internal_error(error)}.", file=sys.stderr)
        return ExitCode.INTERNAL


def parse(arguments: list[str] | None = None, program: str = PEER_PROGRAM) -> argparse.Namespace:
    """Words may stand before, between and after options, which argparse leaves alone once an option came between."""
    parser = build_parser(program)
    options, rest = parser.parse_known_args(arguments)
    strange = [word for word in rest if word.startswith("-") and word != "-"]
    if strange or (rest and not hasattr(options, "words")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        options.words = [*options.words, *rest]
    options.program = program
    return options


def build_parser(program: str = PEER_PROGRAM) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, usage=_usage(program, ["COMMAND ..."]), formatter_class=_HELP,
                     description=f"{DESCRIPTION}\n\n{_examples(program, EXAMPLES)}",
                     epilog="COMMAND --help says what each takes.")
    parser.add_argument("--version", action="version", version=f"p2p {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    send = commands.add_parser("send", help="send files and folders", usage=_usage(program, SEND_WAYS),
                               description=_examples(program, SEND_EXAMPLES), epilog=EXIT_CODES, formatter_class=_HELP)
    send.add_argument("words", nargs="*", metavar="ME FRIEND PATH... | PATH",
                      help="two names and files or folders, or one file or folder; - is standard input")
    instead = send.add_mutually_exclusive_group()
    instead.add_argument("--text", metavar="TEXT", help="send this text instead of files")
    instead.add_argument("--from-command", metavar="COMMAND",
                         help="send what this command of the shell writes, and fail if it fails")
    send.add_argument("--exclude", metavar="PATTERN", action="append", default=[],
                      help="leave out what matches, by the rules of .gitignore; may be repeated")
    send.add_argument("--exclude-from", metavar="FILE", action="append", default=[],
                      help="read such patterns from FILE, one a line; may be repeated")
    send.add_argument("--once", action="store_true", help="end when the other side says no, rather than wait again")
    _add_common(send)

    recv = commands.add_parser("recv", help="receive what is sent", usage=_usage(program, RECV_WAYS),
                               description=_examples(program, RECV_EXAMPLES), epilog=EXIT_CODES, formatter_class=_HELP)
    recv.add_argument("words", nargs="*", metavar="ME FRIEND | CODE", help="names, or the code (asked for if missing)")
    recv.add_argument("--out", metavar="DIR", help="where to put what arrives (default: here); - is standard output")
    recv.add_argument("--yes", action="store_true", help="take what is offered without asking")
    taken = recv.add_mutually_exclusive_group()
    for policy, words in (("rename", "store it under another name (the default)"), ("overwrite", "replace it"),
                          ("skip", "leave it if it is the same, else as with --rename")):
        taken.add_argument(f"--{policy}", dest="policy", action="store_const", const=policy,
                           help=f"when a file's name is taken: {words}")
    recv.add_argument("--discard", action="store_true",
                      help="forget what interrupted runs left in DIR; without names or a code do nothing else")
    recv.add_argument("--accept-from", metavar="NAME[:LIMIT]", action="append", default=[],
                      help="take up to LIMIT bytes (500M, 2G) from the contact NAME without asking, and nothing else; "
                           "may be repeated")
    recv.add_argument("--wait", action="store_true", help="wait for the next transfer after each one; needs names")
    _add_common(recv)

    doctor = commands.add_parser("doctor", help="say what network this is, what will work from it, and what would help",
                                 usage=_usage(program, ["doctor [options]"]), epilog=DOCTOR_EXIT_CODES)
    _add_network(doctor, "without one, little can be found out")
    doctor.add_argument("--timeout", metavar="SECONDS", type=_seconds, help="look for no longer than that (default: 8)")
    doctor.add_argument("--lifetime", action="store_true",
                        help="measure as well how long the router keeps an unused port: up to five minutes")
    _add_talk(doctor)

    contacts = commands.add_parser("contacts", help="say with whom no code is needed, or forget somebody",
                                   epilog="Two become contacts by a transfer with a code and --remember on both sides.")
    contacts.add_argument("action", choices=("list", "forget"), metavar="list | forget")
    contacts.add_argument("name", nargs="?", metavar="NAME", help="with forget: the friend's name")
    contacts.add_argument("--json", action="store_true", help="with list: one contact a line, as JSON")

    completion = commands.add_parser("completion", help="print the script that makes a shell complete p2p",
                                     epilog='for bash: eval "$(p2p completion bash)" in ~/.bashrc')
    completion.add_argument("shell", choices=("bash", "zsh", "fish", "names"), metavar="bash | zsh | fish",
                            help="the shell that is to read it")
    completion.add_argument("page", nargs="?", choices=PROGRAMS, default=PROGRAMS[0], metavar="p2p | p2p-server",
                            help="which program is to be completed (default: p2p)")
    manual = commands.add_parser("man", help="print a manual page, for man -l -")
    manual.add_argument("page", nargs="?", choices=PROGRAMS, default=PROGRAMS[0], metavar="p2p | p2p-server",
                        help="which one (default: p2p)")
    return parser


def _usage(program: str, ways: Sequence[str]) -> str:
    return "\n       ".join(f"{program} {way}" for way in ways).replace("%", "%%")


def _examples(program: str, examples: Sequence[tuple[str, str]]) -> str:
    return "examples:\n" + "\n".join(f"  {program} {command}\n      {words}" for command, words in examples)


def _print(options: argparse.Namespace) -> int:
    """What this program says of itself, for other programs."""
    if options.command == "man":
        from p2p.io import man  # noqa: PLC0415

        text = man.of_program(options.page, build_parser())
    else:
        from p2p.io import completion  # noqa: PLC0415

        text = completion.answer(options.shell, options.page, build_parser())
    sys.stdout.write(text)
    return ExitCode.DONE


def _add_network(parser: argparse.ArgumentParser, without: str) -> None:
    parser.add_argument("--server", metavar="HOST[:PORT]", default=os.environ.get("P2P_SERVER") or None,
                        help=f"the rendezvous server; default: $P2P_SERVER; {without}")
    parser.add_argument("--stun", metavar="HOST[:PORT]", action="append", default=[],
                        help="ask this STUN server as well how the network maps ports; may be repeated")


def _add_talk(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one event a line on stdout")
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("--verbose", action="store_true", help="say more")
    talk.add_argument("--quiet", action="store_true", help="say only what went wrong")


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_network(parser, "without one, this network is searched")
    parser.add_argument("--no-relay", action="store_true",
                        help="rather no transfer than one that the server forwards (it cannot read it)")
    code = parser.add_mutually_exclusive_group()
    code.add_argument("--code", default=os.environ.get("P2P_CODE"), help="the shared code; default: $P2P_CODE")
    code.add_argument("--code-file", metavar="FILE", help="read the code from the first line of FILE")
    code.add_argument("--no-code", action="store_true",
                      help="encrypt without proving who is there; both sides must say so, names only")
    parser.add_argument("--remember", action="store_true",
                        help="with names and a code, on both sides: later transfers between the two need no code")
    parser.add_argument("--timeout", metavar="SECONDS", type=_seconds,
                        help="give up if the other side has not come by then (default: wait)")
    parser.add_argument("--dry-run", action="store_true",
                        help="send: say what would go; recv: show what is offered and say no")
    parser.add_argument("--limit-rate", metavar="RATE", type=_rate,
                        help="no more than so many bytes a second, as in 500k or 2.5M; the lower of both sides holds")
    parser.add_argument("--qr", action="store_true",
                        help="show the other side's command as a QR code as well, on a terminal")
    parser.add_argument("--reconnect", metavar="SECONDS", type=_patience, default=RECONNECT_PATIENCE,
                        help="look for a lost other side for so long (default: 15 minutes; 0: not at all)")
    parser.add_argument("--idle-timeout", metavar="SECONDS", type=_idle_seconds, default=IDLE_TIMEOUT,
                        help=f"give up a connection after so much silence (default: {IDLE_TIMEOUT:.0f})")
    _add_talk(parser)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above zero is wanted, not {text!r}")
    return value


def _patience(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _rate(text: str) -> float:
    try:
        return parse_rate(text)
    except CallerError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _idle_seconds(text: str) -> float:
    value = _seconds(text)
    if value < MIN_IDLE_TIMEOUT:
        raise argparse.ArgumentTypeError(
            f"at least {MIN_IDLE_TIMEOUT:.0f} seconds are wanted, "
            f"because the other side may be silent for {KEEPALIVE_INTERVAL:.0f} though all is well, not {text!r}"
        )
    return value


def _open_missing_streams() -> None:
    """Whoever started us may have closed them (`2>&-`); Python then has None there.

    What a stream's encoding cannot say becomes a question mark.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (for as long as the program runs)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(ExitCode.USAGE, f"{_sentence(message)}\nTry: {self.prog} --help\n")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
