"""The inbound journey of gRPC's synchronous API, whose behaviours run in the threads of a pool."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any

import grpc

from hormesis.inbound.ground import Ground
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
from hormesis.inbound.pulse import ThreadPulse
from hormesis.inbound.request import Request
from hormesis.inbound.service import Given, Service, service_of
from hormesis.inbound.signals import ThreadPoolWait
from hormesis.inbound.standing import stand

__all__ = ["Protect"]


class Protect(grpc.ServerInterceptor):
    """Interceptor of a server of the synchronous API.

    A call's permit is held until its behaviour has returned, and that of a stream until its last message was taken or
    the call has ended.

    Args:
        service: A `Service`, or the path of a policy file that has one.
        name: Which, where the file has several.
        threads: The pool that the server runs its behaviours in, so that the wait for a thread counts as queueing.

    Raises:
        ConfigurationError: The service can't be meant.
        MissingExtraError: grpcio is not installed.

    >>> Protect(Service(name="shop")).service
    <Service 'shop': no parts>
    """

    def __init__(self, service: Given, *, name: str | None = None, threads: Executor | None = None) -> None:
        self.service: Service = service_of(service, name)
        self._threads = threads
        self._wait: ThreadPoolWait | None = None
        self._pulse: ThreadPulse | None = None
        self._lock = threading.Lock()
        self.service.watch_signals()

    def intercept_service(
        self, continuation: Callable[[Any], Handler | None], handler_call_details: Any
    ) -> Handler | None:
        """Put the behaviour of a method under the journey."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        return handler_like(handler, self.behaviour(handler, handler_call_details.method))

    def behaviour(self, handler: Handler, method: str) -> Callable[[Any, Any], Any]:
        """Return the behaviour of a handler, under the journey."""
        behave, streams = behaviour_of(handler), bool(handler.response_streaming)

        def behave_protected(request_or_iterator: Any, context: Any) -> Any:
            ground = self.service.ground
            if method.startswith(HEALTH):
                if not self.service.ready:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "leaving")
                return behave(request_or_iterator, context)
            request = arrive(ground, method, context)
            refused = ground.examine(request) or ground.admit(request)
            if refused is not None and refused.refusal.waitable:
                refused = stand(ground, request, self.pulse(ground).wake)
            if refused is not None:
                _abort(context, Refusing(ground.answer(request, refused), refused.refusal.reason))
            flight = _Flight(ground, request, context, self.pulse(ground))
            # Whichever way the call ends, at the latest then.
            if not context.add_callback(flight.end):
                flight.end()
            if streams:
                return flight.stream(behave, request_or_iterator)
            return flight.answer(behave, request_or_iterator)

        return behave_protected

    def pulse(self, ground: Ground) -> ThreadPulse:
        """Return what beats while calls are in flight."""
        pulse = self._pulse
        if pulse is None or pulse.ground is not ground:
            with self._lock:
                pulse = self._pulse
                if pulse is None or pulse.ground is not ground:
                    if pulse is not None:
                        pulse.retire()
                    pulse = self._pulse = ThreadPulse(self.service, ground)
                    self._watch_threads(ground)
        if self._wait is not None and pulse.asleep:
            self._wait.wake()
        return pulse

    def _watch_threads(self, ground: Ground) -> None:
        machine = ground.machine
        if self._wait is not None:
            self._wait.stop()
            self._wait = None
        if machine is not None and self._threads is not None:
            self._wait = ThreadPoolWait(machine.observe, executor=self._threads, busy=lambda: machine.in_flight > 0)
            self._wait.start()


class _Flight:
    """A call on its way through the application."""

    __slots__ = ("_context", "_ground", "_lock", "_over", "_pulse", "_request", "_within")

    def __init__(self, ground: Ground, request: Request, context: Any, pulse: ThreadPulse) -> None:
        self._ground = ground
        self._request = request
        self._context = context
        self._pulse = pulse
        # Threads of the pool are used again: what is set for this call must not be seen by the next.
        self._within = contextvars.copy_context()
        self._within.run(set_context, ground, request)
        self._over = False
        self._lock = threading.Lock()
        pulse.flights.add(self)
        if pulse.asleep:
            pulse.wake()

    def answer(self, behave: Callable[..., Any], request: Any) -> Any:
        """Let the application answer."""
        try:
            self._within.run(self._meet_faults)
            response = self._within.run(behave, request, self._context)
        except Exception as error:
            self._failed(error)
            raise
        self.end(good=went_well(self._context))
        return response

    def stream(self, behave: Callable[..., Iterator[Any]], request: Any) -> Iterator[Any]:
        """Let the application answer, message by message."""
        try:
            self._within.run(self._meet_faults)
            messages = self._within.run(iter, self._within.run(behave, request, self._context))
            while True:
                try:
                    message = self._within.run(next, messages)
                except StopIteration:
                    break
                yield message
        except Exception as error:
            self._failed(error)
            raise
        finally:
            self.end()

    def _meet_faults(self) -> None:
        """Meet with what is injected in the place of the behaviour, or before."""
        ground = self._ground
        plan = ground.plan(self._request)
        if plan is None or ground.chaos is None:
            return
        ground.chaos.before(plan)
        if plan.answer is not None:
            self._context.abort(*injected_status(ground, plan.answer))

    def _failed(self, error: Exception) -> None:
        """Answer an exception of ours; all others are gRPC's business."""
        good = status_of(self._context) is not None and went_well(self._context)  # aborted, and the caller is to blame
        self.end(good=good)
        answer = self._ground.answer_error(self._request, error)
        if answer is not None:
            _abort(self._context, Refusing(answer, str(error)))

    def end(self, *, good: bool | None = None) -> None:
        """End it, once: its permit, and its being in flight."""
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._pulse.flights.discard(self)
            self._ground.ended(self._request, good=good)


def _abort(context: Any, refusing: Refusing) -> None:
    context.set_trailing_metadata(refusing.metadata)
    context.abort(refusing.code, refusing.details)
