"""One call on its journey, and a call that stays open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hormesis.core.admission import Permit
from hormesis.policy.gate import Gate

if TYPE_CHECKING:
    from types import TracebackType

    from hormesis.core.retry import Delays

__all__ = ["Call", "Opened"]

R_co = TypeVar("R_co", covariant=True)


class Call:
    """What the journey of one call knows.

    Args:
        function, args, kwargs: What is called.
        gate: Who admits it.
        began: When it came, on the policy's clock.
        opens: Whether its permits outlive the function; see `Opened`.
    """

    __slots__ = (
        "args",
        "attempt",
        "began",
        "delays",
        "failed",
        "function",
        "gate",
        "held",
        "inner",
        "kwargs",
        "opens",
        "source",
    )

    def __init__(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        gate: Gate,
        began: float,
        *,
        opens: bool = False,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.gate = gate
        self.began = began
        self.opens = opens
        self.attempt = 1
        self.source = "function"
        self.delays: Delays | None = None
        self.failed: Exception | None = None
        """What ended the attempt before; with a call that comes from the express lane, its first."""
        self.held: tuple[Sequence[Permit], float] | None = None
        """The permits of a call that stays open, and when its attempt went in."""
        self.inner: Opened[Any] | None = None


class Opened(Generic[R_co]):
    """A call whose function has returned, and which goes on: a stream, a cursor, a websocket.

    Its permits are held until `end`, or until the end of a `with` or `async with` block; so a bulkhead counts a stream
    for as long as it flows, and a breaker hears how it ended. Nothing is repeated once it is open.

    Args:
        value: What the function returned.
        end: Takes how it ended.

    >>> from hormesis import Bulkhead, Policy
    >>> stream = Policy(Bulkhead(1), name="stream")
    >>> with stream.open(iter, [1, 2]) as opened:
    ...     list(opened.value)
    [1, 2]
    """

    __slots__ = ("_ends", "value")

    def __init__(self, value: R_co, end: Callable[[BaseException | None], None]) -> None:
        self.value = value
        self._ends = [end]

    def end(self, error: BaseException | None = None) -> None:
        """Say that it has ended, and with which exception; only the first time counts."""
        try:
            end = self._ends.pop()  # atomic: of two threads that end it, one does
        except IndexError:
            return
        end(error)

    def __enter__(self) -> Opened[R_co]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)

    async def __aenter__(self) -> Opened[R_co]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)
