"""An impairment as commands for tc: sch_netem where the kernel has it, with a tbf for the rate. Pure.

    netem 1: (delay, jitter, loss, duplication, corruption, reordering) -> tbf 2: (rate) -> pfifo 3: (queue)

Each stage only where it is needed. Differences from :class:`netlab.impair.Engine`, all of tc's making:
netem draws its own random numbers, so there is no seed; a rate counts the Ethernet header too (14 bytes
a packet); corruption may hit the IP header as well.
"""

from __future__ import annotations

from netlab.impair import DEFAULT_QUEUE, Impairment

ON_THE_WAY = 1_000_000  # packets in netem's delay; its own default, 1000, would be a queue that nobody asked for
ORDERED = "rate 100gbit"  # netem lets packets of different delay overtake each other unless it has a rate
BUCKET = 1600  # bytes that tbf sends at once: one packet
HUGE = 1 << 30  # bytes; tbf wants a limit, even where another queue has the bound


def stages(impairment: Impairment) -> tuple[str, ...]:
    """Which queueing disciplines it takes, from the root inwards."""
    unrated = any(
        (
            impairment.delay,
            impairment.loss,
            impairment.burst,
            impairment.reorder,
            impairment.duplicate,
            impairment.corrupt,
        )
    )
    return (
        *(("netem",) if unrated else ()),
        *(("tbf",) if impairment.rate else ()),
        *(("pfifo",) if impairment.rate and impairment.queue_bytes is None else ()),
    )


def commands(device: str, impairment: Impairment, before: Impairment | None = None) -> list[str]:
    """Lines for ``tc -batch`` that impair what leaves by ``device``; ``before`` is in force there.

    A change that needs the same stages is made in place; another one loses what is on its way.
    """
    needed, present = stages(impairment), stages(before or Impairment())
    options = {"netem": _netem, "tbf": _tbf, "pfifo": _pfifo}
    handles = {"netem": "1:", "tbf": "2:", "pfifo": "3:"}
    lines = [f"qdisc del dev {device} root"] if present and needed != present else []
    place = "root"
    for stage in needed:
        lines.append(f"qdisc replace dev {device} {place} handle {handles[stage]} {stage} {options[stage](impairment)}")
        place = f"parent {handles[stage]}1"
    return lines


def _netem(impairment: Impairment) -> str:
    words = [f"limit {ON_THE_WAY}"]
    if impairment.delay:
        words.append(f"delay {_time(impairment.delay)}")
        if impairment.jitter:
            words.append(_time(impairment.jitter))
    if impairment.burst:
        burst = impairment.burst
        # "gemodel p r 1-h 1-k": the last two are the probabilities of loss.
        shares = (burst.to_bad, burst.to_good, burst.loss_bad, burst.loss_good)
        words.append("loss gemodel " + " ".join(map(_percent, shares)))
    elif impairment.loss:
        words.append(f"loss random {_percent(impairment.loss)}")
    for name in ("corrupt", "duplicate", "reorder"):
        if share := getattr(impairment, name):
            words.append(f"{name} {_percent(share)}")
    if impairment.jitter:
        words.append(ORDERED)
    return " ".join(words)


def _tbf(impairment: Impairment) -> str:
    assert impairment.rate is not None
    # Its bound counts all that it holds; a packet too long for it is dropped, an empty queue or not.
    limit = HUGE if impairment.queue_bytes is None else max(BUCKET, impairment.queue_bytes)
    return f"rate {impairment.rate:.0f}bit burst {BUCKET} limit {limit}"


def _pfifo(impairment: Impairment) -> str:
    packets = DEFAULT_QUEUE if impairment.queue_packets is None else impairment.queue_packets
    return f"limit {max(1, packets)}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}us"


def _percent(share: float) -> str:
    return f"{share * 100:.6f}".rstrip("0").rstrip(".") + "%"
