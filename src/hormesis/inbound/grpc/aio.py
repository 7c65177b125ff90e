"""The inbound journey of gRPC's asynchronous API."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from hormesis.inbound.answers import Answer
from hormesis.inbound.ground import Ground
from hormesis.inbound.grpc.blocking import Protect
from hormesis.inbound.grpc.rpc import (
    HEALTH,
    Handler,
    Refusing,
    arrive,
    behaviour_of,
    handler_like,
    injected_status,
    set_context,
    status_of,
    went_well,
)
from hormesis.inbound.passes import Counted
from hormesis.inbound.pulse import LoopPulse
from hormesis.inbound.request import Request
from hormesis.inbound.service import Given, Service, service_of
from hormesis.inbound.standing import stand_async

__all__ = ["AsyncProtect"]


class AsyncProtect(grpc.aio.ServerInterceptor):
    """Interceptor of a server of the asynchronous API.

    A call's permit is held until its behaviour has returned, or the last message of a stream was taken. Behaviours that
    are synchronous functions, which such a server runs in threads, make the synchronous journey.

    Args:
        service: A `Service`, or the path of a policy file that has one.
        name: Which, where the file has several.

    Raises:
        ConfigurationError: The service can't be meant.
        MissingExtraError: grpcio is not installed.

    >>> AsyncProtect(Service(name="shop")).service
    <Service 'shop': no parts>
    """

    def __init__(self, service: Given, *, name: str | None = None) -> None:
        self.service: Service = service_of(service, name)
        self._pulse: LoopPulse | None = None
        self._in_threads: Protect | None = None
        self.service.watch_signals()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler | None]], handler_call_details: Any
    ) -> Handler | None:
        """Put the behaviour of a method under the journey."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        behave = behaviour_of(handler)
        if inspect.isasyncgenfunction(behave):
            protected: Callable[..., Any] = self._of_generator(behave, method)
        elif inspect.iscoroutinefunction(behave):
            protected = self._of_coroutine(behave, method, streams=bool(handler.response_streaming))
        else:
            if self._in_threads is None:
                self._in_threads = Protect(self.service)
            protected = self._in_threads.behaviour(handler, method)
        return handler_like(handler, protected)

    def _of_coroutine(
        self, behave: Callable[..., Awaitable[Any]], method: str, *, streams: bool
    ) -> Callable[..., Awaitable[Any]]:
        async def behave_protected(request_or_iterator: Any, context: Any) -> Any:
            if method.startswith(HEALTH):
                await self._check_ready(context)
                return await behave(request_or_iterator, context)
            async with await self._enter(method, context) as flight:
                await flight.meet_faults()
                given = _Timed(context, flight) if streams else context
                counted, began = Counted(behave(request_or_iterator, given)), flight.ground.now()
                response = await counted
                # How long a stream took that it has written itself says nothing of the service.
                flight.good = None if streams else went_well(context)
                if not streams:
                    flight.passes.counted(counted.suspensions, flight.ground.now() - began)
            return response

        return behave_protected

    def _of_generator(
        self, behave: Callable[..., AsyncIterator[Any]], method: str
    ) -> Callable[..., AsyncIterator[Any]]:
        async def behave_protected(request_or_iterator: Any, context: Any) -> AsyncIterator[Any]:
            if method.startswith(HEALTH):
                await self._check_ready(context)
                async for message in behave(request_or_iterator, context):
                    yield message
                return
            async with await self._enter(method, context) as flight:
                await flight.meet_faults()
                flight.good = None
                async for message in behave(request_or_iterator, context):
                    flight.sending_since = flight.ground.now()
                    yield message
                    flight.sending_since = math.inf

        return behave_protected

    async def _check_ready(self, context: Any) -> None:
        if not self.service.ready:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")

    async def _enter(self, method: str, context: Any) -> _Flight:
        """Make the journey up to the application, or end the call."""
        ground = self.service.ground
        request = arrive(ground, method, context)
        refused = ground.examine(request) or ground.admit(request)
        if refused is not None and refused.refusal.waitable:
            refused = await stand_async(ground, request, self.pulse(ground).wake)
        if refused is not None:
            await _abort(context, ground.answer(request, refused), refused.refusal.reason)
        return _Flight(ground, request, context, self.pulse(ground))

    def pulse(self, ground: Ground) -> LoopPulse:
        """Return what beats on the running loop while calls are in flight there."""
        pulse = self._pulse
        if pulse is None or pulse.ground is not ground or pulse.loop is not asyncio.get_running_loop():
            if pulse is not None and pulse.loop is asyncio.get_running_loop():
                pulse.retire()
            pulse = self._pulse = LoopPulse(self.service, ground)
        return pulse


class _Flight:
    """A call on its way through the application; each has a task of its own, whose context is set and never reset."""

    __slots__ = ("_context", "_pulse", "_request", "_task", "_why", "good", "ground", "passes", "sending_since")

    def __init__(self, ground: Ground, request: Request, context: Any, pulse: LoopPulse) -> None:
        self.ground = ground
        self.good: bool | None = False
        """Whether what came of it is good; None where how long it took means nothing."""
        self.sending_since = math.inf
        self._request = request
        self._context = context
        self._pulse = pulse
        self.passes = pulse.passes
        self._task = asyncio.current_task()
        self._why = ""
        pulse.flights.add(self)
        if pulse.asleep:
            pulse.wake()
        set_context(ground, request)

    async def __aenter__(self) -> _Flight:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        answer = None
        if isinstance(error, Exception):
            # Aborted with a status that blames the caller, it went well.
            self.good = status_of(self._context) is not None and went_well(self._context)
            answer = self.ground.answer_error(self._request, error)
        self._pulse.flights.discard(self)
        cancelled = error is not None and not isinstance(error, Exception)
        self.ground.ended(self._request, good=self.good, ending="cancelled" if cancelled and not self._why else "")
        if answer is not None:
            await _abort(self._context, answer, str(error))

    async def meet_faults(self) -> None:
        """Meet with what is injected in the place of the behaviour, or before."""
        ground = self.ground
        plan = ground.plan(self._request)
        if plan is None or ground.chaos is None:
            return
        await ground.chaos.before_async(plan, heeds_deadline=True)
        if plan.answer is not None:
            await self._context.abort(*injected_status(ground, plan.answer))

    def cut(self, why: str) -> None:
        """End it from outside: the call is cancelled."""
        if not self._why and self._task is not None:
            self._why = why
            self._task.cancel()


class _Timed:
    """A call's context, for a behaviour that writes its messages itself: it is known how long one stands there."""

    __slots__ = ("_context", "_flight")

    def __init__(self, context: Any, flight: _Flight) -> None:
        self._context = context
        self._flight = flight

    async def write(self, message: Any) -> None:
        flight = self._flight
        flight.sending_since = flight.ground.now()
        await self._context.write(message)
        flight.sending_since = math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def _abort(context: Any, answer: Answer, reason: str) -> None:
    refusing = Refusing(answer, reason)
    await context.abort(refusing.code, refusing.details, refusing.metadata)
