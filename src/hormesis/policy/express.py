"""The express lane: the journey of a call that nothing stands in the way of.

Most calls are like that: the circuit is closed, tokens and places are left, the function answers. For them a policy
takes one permit of each, calls, and gives them back, without a lock, an object of its own, or a timer; what the
machines do is a handful of steps in C. Whatever is not plain leaves the lane and makes the whole journey: a call that
is refused or has to wait does so before anything was taken, a failure after its permits have ended as what it was.

Only layers take it that hold nothing but a breaker, a rate limit and a bulkhead, a retry, a timeout that needs no
thread, a deadline and a fallback; and only while nobody listens to every call, and no fault can be injected.

An asynchronous attempt with a timeout is run up to its first suspension, and watched only from there on: one that
never waits can't be interrupted anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Protocol

from hormesis.context import current_deadline, left
from hormesis.core.admission import Permit, Refusal
from hormesis.core.breaker import BreakerMachine
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.rate_gate import RateGate, RateGates, Spent
from hormesis.core.slots import Slot
from hormesis.errors import CircuitOpen, RateLimited
from hormesis.policy.call import Call
from hormesis.policy.journey import Layer, refuse_coroutine, steps_of

__all__ = ["Holder", "protect", "protect_async"]

_deadline, _set_deadline, _reset_deadline = current_deadline.get, current_deadline.set, current_deadline.reset


class Holder(Protocol):
    """A policy: its topmost layer may be another from one call to the next."""

    top: Layer


def protect(holder: Holder, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a synchronous function under a policy."""

    def protected(*args: Any, **kwargs: Any) -> Any:
        layer = holder.top
        breaker, bulkhead, limit = layer.breaker, layer.bulkhead, layer.first_limit
        if layer.keyed:
            breaker, bulkhead = layer.doors.pick(args, kwargs)
        if (
            not layer.plain
            or layer.bus.callers
            or ((outer := _deadline()) is not None and left(outer) <= (limit or 0.0))
            or (bulkhead is not None and bulkhead.queue)
        ):
            return layer.run(function, args, kwargs)
        passing = _NO_BREAKER if breaker is None else breaker.passing
        if passing is None:
            _turn_away(layer, breaker)
            return layer.run(function, args, kwargs)
        gates = layer.gates
        spent: Any = None
        if gates is not None:
            key, cost = "", gates.cost
            if gates.fixed is None:
                if gates.key_of is not None:
                    key = gates.key_of(args, kwargs)
                if gates.cost_of is not None:
                    cost = gates.cost_of(args, kwargs)
            now = layer.now()
            spent = key, cost, now
            refusal = gates.limiter.take(key, cost, now)
            if refusal is not None:
                _refuse(layer, gates, key, refusal)
                return layer.run(function, args, kwargs)
        place: Any = None
        if bulkhead is not None:
            try:  # a `with` would cost as much as all the rest
                place = bulkhead.take()
            except IndexError:
                place = None
            if place is None:
                if gates is not None:
                    gates.limiter.put_back(*spent)
                return layer.run(function, args, kwargs)
        if layer.budget is not None:
            layer.deposit()
        started, token = 0.0, None
        if layer.needs_time:
            started = layer.now()
            if limit is not None:
                token = _set_deadline((started + limit, layer.clock, limit, layer.policy, layer.first_error))
        try:
            try:
                result = function(*args, **kwargs) if kwargs else function(*args)
                if result.__class__ is CoroutineType:
                    refuse_coroutine(result)
                if layer.judges:
                    layer.judge(result)
            finally:
                if token is not None:
                    _reset_deadline(token)
        except BaseException as error:
            failed = error
        else:
            if bulkhead is not None:
                bulkhead.give(place)
                if bulkhead.queue:
                    bulkhead.hand_over()
            if breaker is not None:
                if layer.needs_time and breaker.timed:  # it may have become so in the middle of the call
                    breaker.succeed(passing, started, layer.now())
                    if breaker.outbox:
                        layer.teller.tell_news(layer.doors.gate(args, kwargs, (breaker,)))
                else:
                    passing.tick()
            return result
        try:
            return layer.travel(
                _leave(layer, function, args, kwargs, (breaker, passing, bulkhead, place), failed, started)
            )
        finally:
            del failed  # or it would keep its own traceback alive, and this frame with it

    return protected


def protect_async(holder: Holder, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Return an asynchronous function under a policy; line by line the same."""

    async def protected(*args: Any, **kwargs: Any) -> Any:
        layer = holder.top
        breaker, bulkhead, limit = layer.breaker, layer.bulkhead, layer.first_limit
        if layer.keyed:
            breaker, bulkhead = layer.doors.pick(args, kwargs)
        if (
            not layer.plain
            or layer.bus.callers
            or ((outer := _deadline()) is not None and (limit is None or left(outer) < limit))
            or (bulkhead is not None and bulkhead.queue)
        ):
            return await layer.run_async(function, args, kwargs)
        passing = _NO_BREAKER if breaker is None else breaker.passing
        if passing is None:
            _turn_away(layer, breaker)
            return await layer.run_async(function, args, kwargs)
        gates = layer.gates
        spent: Any = None
        if gates is not None:
            key, cost = "", gates.cost
            if gates.fixed is None:
                if gates.key_of is not None:
                    key = gates.key_of(args, kwargs)
                if gates.cost_of is not None:
                    cost = gates.cost_of(args, kwargs)
            now = layer.now()
            spent = key, cost, now
            refusal = gates.limiter.take(key, cost, now)
            if refusal is not None:
                _refuse(layer, gates, key, refusal)
                return await layer.run_async(function, args, kwargs)
        place: Any = None
        if bulkhead is not None:
            try:
                place = bulkhead.take()
            except IndexError:
                place = None
            if place is None:
                if gates is not None:
                    gates.limiter.put_back(*spent)
                return await layer.run_async(function, args, kwargs)
        if layer.budget is not None:
            layer.deposit()
        started, token = 0.0, None
        if layer.needs_time:
            started = layer.now()
            if limit is not None:
                token = _set_deadline((started + limit, layer.clock, limit, layer.policy, layer.first_error))
        try:
            try:
                steps: Any = function(*args, **kwargs) if kwargs else function(*args)
                if steps.__class__ is not CoroutineType:
                    steps = steps_of(steps, function)
                if limit is None:
                    result = await steps
                else:
                    try:
                        waits_for = steps.send(None)
                    except StopIteration as done:
                        result = done.value
                    else:
                        result = await layer.watchdog(limit, layer.first_error).watched(steps, waits_for, started)
                if layer.judges:
                    layer.judge(result)
            finally:
                if token is not None:
                    _reset_deadline(token)
        except BaseException as error:
            failed = error
        else:
            if bulkhead is not None:
                bulkhead.give(place)
                if bulkhead.queue:
                    bulkhead.hand_over()
            if breaker is not None:
                if layer.needs_time and breaker.timed:  # it may have become so in the middle of the call
                    breaker.succeed(passing, started, layer.now())
                    if breaker.outbox:
                        layer.teller.tell_news(layer.doors.gate(args, kwargs, (breaker,)))
                else:
                    passing.tick()
            return result
        try:
            return await layer.travel_async(
                _leave(layer, function, args, kwargs, (breaker, passing, bulkhead, place), failed, started)
            )
        finally:
            del failed

    return protected


class _NoBreaker(Permit):
    """Stands for a closed breaker where there is none."""

    __slots__ = ()


_NO_BREAKER: Any = _NoBreaker(0)


def _turn_away(layer: Layer, breaker: BreakerMachine | None) -> None:
    """Raise the rejection of an open circuit at once, where nothing else could become of the call."""
    if breaker is None or layer.keyed or layer.fallback is not None:
        return
    wait = breaker.open_until - layer.now()
    if wait > 0:
        layer.deposit()
        if layer.bus.listeners:
            layer.teller.tell_rejection(Slot.CIRCUIT_BREAKER.key, "", Refusal("open", wait))
        raise CircuitOpen(layer.policy, "open", wait)


def _refuse(layer: Layer, gates: RateGates, key: str, refusal: Refusal) -> None:
    """Raise the rejection of a rate limit at once, where nothing else could become of the call."""
    wait = refusal.retry_after
    if layer.fallback is not None or (wait is not None and wait <= gates.max_wait):
        return
    layer.deposit()
    if layer.bus.listeners:
        layer.teller.tell_rejection(Slot.RATE_LIMIT.key, key, refusal)
    raise RateLimited(layer.policy, refusal.reason, wait)


def _leave(
    layer: Layer,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    taken: tuple[BreakerMachine | None, Permit, BulkheadMachine | None, Permit | None],
    error: BaseException,
    started: float,
) -> Call:
    """End the permits of a first attempt that failed, and make the call that goes on from there."""
    began = started if layer.needs_time else layer.now()
    breaker, passing, bulkhead, place = taken
    call = Call(function, args, kwargs, layer.doors.gate(args, kwargs, (breaker, bulkhead)), began)
    permits: list[Permit] = []
    for entry in call.gate.entries:
        permit = passing if entry.machine is breaker else place
        if isinstance(entry.machine, RateGate):
            permit = Spent(began)
        assert permit is not None  # noqa: S101  the lane has taken one of each
        permits.append(permit)
    layer.end_badly(call, permits, error, began)
    if not isinstance(error, Exception):
        raise error
    call.failed = error
    return call
