"""Other libraries around the same function, each as its documentation shows it, and the stacks made of them.

Nothing is imported before a case is made, so that a library that is missing, or that can't do it, is told by name and
costs the others nothing.
"""

# ruff: noqa: PLC0415  (see above)

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Awaitable, Callable
from typing import Any

Sync = Callable[[], int]
Async = Callable[[], Awaitable[int]]


# Breakers.


def pybreaker_breaker(function: Sync) -> Any:
    """A decorator of pybreaker; a lock is held while the function runs."""
    import pybreaker

    return pybreaker.CircuitBreaker()(function)


def circuitbreaker_breaker(function: Any) -> Any:
    """The decorator of circuitbreaker, either colour; it has no lock."""
    import circuitbreaker

    return circuitbreaker.circuit(function)


def aiobreaker_breaker(function: Any) -> Any:
    """The decorator of aiobreaker, either colour."""
    import aiobreaker

    return aiobreaker.CircuitBreaker()(function)


def purgatory_breaker(function: Sync) -> Any:
    """The synchronous factory of purgatory, in memory."""
    import purgatory

    return purgatory.SyncCircuitBreakerFactory()("bench")(function)


def purgatory_breaker_async(function: Async) -> Any:
    """The asynchronous factory of purgatory, in memory."""
    import purgatory

    return purgatory.AsyncCircuitBreakerFactory()("bench")(function)


def hyx_breaker(function: Any) -> Any:
    """The consecutive breaker of hyx, asynchronous only."""
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker()(function)


def pyresilience_breaker(function: Any) -> Any:
    """The breaker of pyresilience, either colour, counting failures in a row."""
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig())(function)


def pyresilience_slow(function: Any) -> Any:
    """The same with a window of a hundred calls, slow ones watched."""
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig(sliding_window_size=100, slow_call_duration=1.0))(function)


# Retries.


def tenacity_retry(function: Any) -> Any:
    """Three attempts of tenacity, either colour, with jittered back-off."""
    import tenacity

    return tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential(max=5))(function)


def stamina_retry(function: Any) -> Any:
    """Three attempts of stamina, either colour."""
    import stamina

    return stamina.retry(on=ConnectionError, attempts=3)(function)


def hyx_retry(function: Any) -> Any:
    """The retry of hyx, asynchronous only."""
    from hyx.retry import retry

    return retry(attempts=3)(function)


def pyresilience_retry(function: Any) -> Any:
    """Three attempts of pyresilience, either colour."""
    from pyresilience import RetryConfig, resilient

    return resilient(retry=RetryConfig(max_attempts=3))(function)


# Timeouts.


def asyncio_timeout(function: Async) -> Any:
    """The standard library's timeout."""

    async def timed() -> int:
        async with asyncio.timeout(1):
            return await function()

    return timed


def asyncio_wait_for(function: Async) -> Any:
    """The standard library's older one."""

    async def timed() -> int:
        return await asyncio.wait_for(function(), 1)

    return timed


def hyx_timeout(function: Any) -> Any:
    """The timeout of hyx."""
    from hyx.timeout import timeout

    return timeout(max_delay_secs=1)(function)


# Stacks: retry, breaker and bulkhead, without and with a timeout.


def tenacity_pybreaker(function: Sync) -> Any:
    """Retry around a breaker: what most services have."""
    return tenacity_retry(pybreaker_breaker(function))


def tenacity_pybreaker_semaphore(function: Sync) -> Any:
    """The same with a semaphore as the bulkhead."""
    places = threading.BoundedSemaphore(20)

    def within() -> int:
        with places:
            return function()

    return tenacity_retry(pybreaker_breaker(within))


def tenacity_aiobreaker_semaphore(function: Async) -> Any:
    """The asynchronous stack."""
    places = asyncio.Semaphore(20)

    async def within() -> int:
        async with places:
            return await function()

    return tenacity_retry(aiobreaker_breaker(within))


def tenacity_aiobreaker_semaphore_timeout(function: Async) -> Any:
    """The asynchronous stack, each attempt timed."""
    return tenacity_aiobreaker_semaphore(asyncio_timeout(function))


def pyresilience_stack(function: Any) -> Any:
    """The combination that pyresilience makes itself."""
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RetryConfig, resilient

    return resilient(
        retry=RetryConfig(max_attempts=3),
        circuit_breaker=CircuitBreakerConfig(),
        bulkhead=BulkheadConfig(max_concurrent=20),
    )(function)


def pyresilience_full(function: Any) -> Any:
    """The same with a timeout; on a synchronous function that is a thread of a pool."""
    from pyresilience import BulkheadConfig, CircuitBreakerConfig, RetryConfig, TimeoutConfig, resilient

    return resilient(
        retry=RetryConfig(max_attempts=3),
        circuit_breaker=CircuitBreakerConfig(),
        bulkhead=BulkheadConfig(max_concurrent=20),
        timeout=TimeoutConfig(seconds=1),
    )(function)


SYNC: dict[str, Callable[[Sync], Any]] = {
    "breaker: circuitbreaker": circuitbreaker_breaker,
    "breaker: pybreaker": pybreaker_breaker,
    "breaker: aiobreaker": aiobreaker_breaker,
    "breaker: purgatory": purgatory_breaker,
    "breaker: pyresilience": pyresilience_breaker,
    "breaker, slow calls watched: pyresilience": pyresilience_slow,
    "retry: tenacity": tenacity_retry,
    "retry: stamina": stamina_retry,
    "retry: pyresilience": pyresilience_retry,
    "retry + breaker: tenacity, pybreaker": tenacity_pybreaker,
    "retry + breaker + bulkhead: tenacity, pybreaker, Semaphore": tenacity_pybreaker_semaphore,
    "retry + breaker + bulkhead: pyresilience": pyresilience_stack,
    "the same with a timeout: pyresilience": pyresilience_full,
}

ASYNC: dict[str, Callable[[Async], Any]] = {
    "breaker: circuitbreaker": circuitbreaker_breaker,
    "breaker: aiobreaker": aiobreaker_breaker,
    "breaker: purgatory": purgatory_breaker_async,
    "breaker: hyx": hyx_breaker,
    "breaker: pyresilience": pyresilience_breaker,
    "breaker, slow calls watched: pyresilience": pyresilience_slow,
    "retry: tenacity": tenacity_retry,
    "retry: stamina": stamina_retry,
    "retry: hyx": hyx_retry,
    "retry: pyresilience": pyresilience_retry,
    "timeout: asyncio.timeout": asyncio_timeout,
    "timeout: asyncio.wait_for": asyncio_wait_for,
    "timeout: hyx": hyx_timeout,
    "retry + breaker + bulkhead: tenacity, aiobreaker, Semaphore": tenacity_aiobreaker_semaphore,
    "retry + breaker + bulkhead: pyresilience": pyresilience_stack,
    "the same with a timeout: tenacity, aiobreaker, Semaphore, asyncio.timeout": tenacity_aiobreaker_semaphore_timeout,
    "the same with a timeout: pyresilience": pyresilience_full,
}


# An open breaker: each is made to open at its first failure, and stays open for an hour.


def _open_circuitbreaker(function: Sync) -> Any:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=3600)(function)


def _open_pybreaker(function: Sync) -> Any:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=1, reset_timeout=3600)(function)


def _open_aiobreaker(function: Sync) -> Any:
    import aiobreaker

    return aiobreaker.CircuitBreaker(fail_max=1, timeout_duration=datetime.timedelta(hours=1))(function)


def _open_purgatory(function: Sync) -> Any:
    import purgatory

    return purgatory.SyncCircuitBreakerFactory(default_threshold=1, default_ttl=3600)("bench")(function)


def _open_pyresilience(function: Sync) -> Any:
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(circuit_breaker=CircuitBreakerConfig(failure_threshold=1, recovery_timeout=3600))(function)


OPEN: dict[str, Callable[[Sync], Any]] = {
    "rejection, caught: circuitbreaker": _open_circuitbreaker,
    "rejection, caught: pybreaker": _open_pybreaker,
    "rejection, caught: aiobreaker": _open_aiobreaker,
    "rejection, caught: purgatory": _open_purgatory,
    "rejection, caught: pyresilience": _open_pyresilience,
}


# One breaker, for measuring how much memory it takes.


def _a_pybreaker() -> object:
    import pybreaker

    return pybreaker.CircuitBreaker()


def _a_circuitbreaker() -> object:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker()


def _an_aiobreaker() -> object:
    import aiobreaker

    return aiobreaker.CircuitBreaker()


def _a_hyx_breaker() -> object:
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker()


def _a_pyresilience_breaker() -> object:
    from pyresilience import CircuitBreaker, CircuitBreakerConfig

    return CircuitBreaker(CircuitBreakerConfig(sliding_window_size=100))


ONE_BREAKER: dict[str, Callable[[], object]] = {
    "circuitbreaker (failures in a row)": _a_circuitbreaker,
    "pybreaker (failures in a row)": _a_pybreaker,
    "aiobreaker (failures in a row)": _an_aiobreaker,
    "hyx (failures in a row)": _a_hyx_breaker,
    "pyresilience (window of 100 calls)": _a_pyresilience_breaker,
}
