"""What is offered, as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from p2p.core.text import escape
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.messages import Offer, OfferKind, Root, Totals
from p2p.io.terminal.words import files, size

MANY: Final = 100  # folders and links that go without saying, and as many as there are files


def thing(root: Root) -> str:
    """One of what the other side named."""
    name = escape(root.name)
    if root.kind is Kind.FOLDER:
        return f"{name}/"
    return f"{name}  ({size(root.size)})" if root.size is not None else name


def others(offer: Offer, shown: Sequence[Root]) -> str:
    """What the other side named besides those `shown`: how many, and as much of how much as the offer says."""
    rest = [root for root in offer.shown if root not in shown]
    plain = [root.size for root in rest if root.kind is Kind.FILE]
    folders, unnamed = len(rest) - len(plain), offer.roots - len(offer.shown)
    parts = [f"{files(len(plain))}, {size(sum(each or 0 for each in plain))}"] if plain else []
    if folders:
        parts.append("1 folder" if folders == 1 else f"{folders:,} folders")
    if unnamed:
        parts.append(f"{unnamed:,} that are too many to be named, none of them hidden")
    return f"{offer.roots - len(shown):,} more: " + "; ".join(parts)


def everything(offer: Offer) -> str:
    match offer.kind:
        case OfferKind.TEXT:
            return f"a text of {size(offer.totals.size or 0)}"
        case OfferKind.PIPE:
            return "the output of a program; how much it is nobody knows yet"
        case _:
            return counts(offer.totals)


def counts(totals: Totals) -> str:
    what = f"{files(totals.files)}, {size(totals.size or 0)}" if totals.files else "no files, but folders or links"
    if totals.others > max(MANY, totals.files):
        what += f", and {totals.others:,} folders and links"
    if totals.is_final:
        return what
    return f"at least {what} (still counting)" if totals.files else "more than is counted yet"
