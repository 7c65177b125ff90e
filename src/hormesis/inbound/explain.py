"""A service in words: the way of a request, the reasons for it, and what its limits are limits of."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hormesis.core.slots import Inbound
from hormesis.inbound.limits import divided
from hormesis.units import format_seconds, seconds

if TYPE_CHECKING:
    from hormesis.inbound.service import ServiceSettings

__all__ = ["explain"]


def explain(settings: ServiceSettings, levels: str | None) -> str:
    """Write a service for people.

    Args:
        settings: Its settings.
        levels: Its degradation in words, if it has one.
    """
    shadow = " (a shadow: it watches, and does none of this)" if settings.shadow else ""
    lines = [f"service {settings.name!r}, the way of a request{shadow}:"]
    stops = [
        (Inbound.IDENTIFY, _identify(settings)),
        (Inbound.DEADLINE, _deadline(settings)),
        (Inbound.RATE_LIMIT, [divided(limit, settings.processes).describe() for limit in settings.rate_limits]),
        (Inbound.LOAD_SHEDDER, [settings.load_shedder.describe()] if settings.load_shedder is not None else []),
        (Inbound.CHAOS, [settings.chaos.describe()] if settings.chaos is not None else []),
    ]
    number = 0
    for stop, words in stops:
        if not words:
            continue
        number += 1
        lines.append(f"  {number}. {stop.key.replace('_', ' ')}: {words[0]}")
        lines += [f"     {more}" for more in words[1:]]
        lines += textwrap.wrap(stop.reason, 100, initial_indent="       ", subsequent_indent="       ")
    lines.append(f"  {number + 1}. the application")
    if levels is not None:
        lines.append(f"degradation: {levels}; the load is one of its sources")
    if settings.drain is not None:
        lines.append(f"leaving: {settings.drain.describe()}")
    lines += _per_process(settings)
    return "\n".join(lines)


def _identify(settings: ServiceSettings) -> list[str]:
    words = [", ".join(_believed(settings))]
    return words + [f"{number}) {rule.describe()}" for number, rule in enumerate(settings.rules, 1)]


def _believed(settings: ServiceSettings) -> Iterator[str]:
    if settings.trusted:
        yield f"believes {', '.join(settings.trusted)} in everything"
    if settings.proxies:
        yield f"believes {', '.join(settings.proxies)} in addresses ({settings.addresses})"
    others = "others" if settings.trusted or settings.proxies else "nobody is believed; a request"
    if settings.strangers is None:
        yield f"{others} may lower their priority" if others == "others" else f"{others} may lower its priority"
    else:
        yield f"{others} may ask for priorities from {settings.strangers[0]} to {settings.strangers[1]}"


def _deadline(settings: ServiceSettings) -> list[str]:
    longest = format_seconds(seconds(settings.deadline_max))
    if settings.deadline is None:
        own = f"what a request brings, up to {longest}"
    else:
        own = format_seconds(seconds(settings.deadline))
        own = f"{own}, or what a request brings: less, or from whom is trusted up to {longest}"
    return [own + ("; then the application is cancelled" if settings.cancel_late else "")]


def _per_process(settings: ServiceSettings) -> Iterator[str]:
    if not settings.rate_limits and settings.load_shedder is None:
        return
    if settings.processes > 1:
        yield (
            f"limits are each process's own: rate limits are divided by {settings.processes} processes, as shown; what "
            "a load shedder finds is what one process can do"
        )
    else:
        yield (
            "limits are this process's own: a server with N workers lets in N times as much (processes=N divides the "
            "rate limits)"
        )
