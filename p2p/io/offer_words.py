"""What is offered, as people read it."""

from __future__ import annotations

from p2p.core.text import escape
from p2p.core.transfer.entries import Kind
from p2p.core.transfer.messages import Offer, OfferKind, Root, Totals
from p2p.io.words import files, size


def thing(root: Root) -> str:
    """One of what the other side named."""
    name = escape(root.name)
    if root.kind is Kind.FOLDER:
        return f"{name}/"
    return f"{name}  ({size(root.size)})" if root.size is not None else name


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
    if totals.is_final:
        return what
    return f"at least {what} (still counting)" if totals.files else "more than is counted yet"
