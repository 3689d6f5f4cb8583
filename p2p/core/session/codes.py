"""One-time codes: `7-amber-walnut-tiger` is the nameplate `7` and the secret `amber-walnut-tiger`.

The nameplate is public: the server pairs by it. The secret goes into SPAKE2 and never leaves the two peers, so
guesses cannot be checked offline, and three wrong ones burn the code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from difflib import get_close_matches
from typing import Final

from p2p.core.errors import CallerError
from p2p.core.session.words import BITS_PER_WORD, WORDS, spell

CODE_WORDS: Final = 3
CODE_BITS: Final = CODE_WORDS * BITS_PER_WORD  # 24: three tries hit with probability 1 in 5.6 million
MIN_SECRET: Final = 8  # characters; anything shorter is guessed too easily even three times
NAMEPLATE_DIGITS: Final = 6  # what a person still repeats without a slip

# Telephones turn hyphens into dashes; they all mean the same.
_SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
_DIGITS = re.compile(rf"[0-9]{{1,{NAMEPLATE_DIGITS}}}")
_KNOWN = frozenset(WORDS)


def generate_code(random_bytes: Callable[[int], bytes]) -> str:
    """Three words, 24 bits."""
    return spell(random_bytes(CODE_WORDS))


def generate_nameplate(random_bytes: Callable[[int], bytes], attempt: int) -> str:
    """A number of up to `attempt` + 1 digits; `attempt` counts the nameplates that were taken, from 0."""
    digits = min(max(attempt, 0) + 1, NAMEPLATE_DIGITS)
    return str(1 + int.from_bytes(random_bytes(8), "big") % (10**digits - 1))


def split_code(text: str) -> tuple[str, str]:
    """The nameplate and the secret of a code as a person typed it.

    Raises CallerError, whose text says what is wrong with it, when it is not a code.
    """
    parts = _fold(text).split("-")
    if not _DIGITS.fullmatch(parts[0]) or int(parts[0]) == 0:
        raise CallerError(f"a code begins with a number, like 7-amber-walnut-tiger; this one begins with {parts[0]!r}")
    words = parts[1:]
    if len(words) != CODE_WORDS:
        raise CallerError(f"a code is a number and {CODE_WORDS} words, like 7-amber-walnut-tiger; found {len(words)}")
    unknown = [word for word in words if word not in _KNOWN]
    if unknown:
        raise CallerError("; ".join(_explain(word) for word in unknown))
    return str(int(parts[0])), "-".join(words)


def normalise_secret(text: str) -> bytes:
    """The bytes that both sides feed to SPAKE2, whatever the case, spacing or composition in which it was typed.

    Raises CallerError when fewer than 8 characters are left.
    """
    folded = _fold(text)
    if len(folded) < MIN_SECRET:
        raise CallerError(f"a code needs at least {MIN_SECRET} characters; this one has {len(folded)}")
    try:
        return folded.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CallerError("the code holds characters that are not text") from error


def _fold(text: str) -> str:
    # Case folding can undo the normal form and the reverse: the second pass makes the result stable.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    return _SEPARATORS.sub("-", unicodedata.normalize("NFKC", text)).strip("-")


def _explain(word: str) -> str:
    near = get_close_matches(word, WORDS, n=2, cutoff=0.6) or [known for known in WORDS if known[:3] == word[:3]]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{word!r} is not a word of any code{hint}"
