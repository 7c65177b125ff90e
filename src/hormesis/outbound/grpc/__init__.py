"""gRPC calls under a policy, by the client interceptors that both of its APIs take.

    grpc.intercept_channel(channel, PolicyInterceptor(policy))
    grpc.aio.insecure_channel(target, interceptors=policy_interceptors(policy))

**One answer.** The policy sees the call's outcome: it retries, hedges, caches and falls back as with any function.
Which methods may be sent twice is what `.proto` files say of them (`option idempotency_level`), or `repeatable`; others
are neither retried nor hedged, whatever the status, since even `UNAVAILABLE` can mean that the server did the work.

**A stream of answers.** The policy waits for the first message, so all of it applies up to there. From then on nothing
is repeated, and permits are held until the stream ends, by whatever: its last message, a failure, `cancel()`, its
deadline, or because nobody refers to it any more.

**A call that goes on while the caller does something else**: the synchronous `method.future(…)`, both directions
streaming, and on the asynchronous API also a stream of requests, where the caller may still have to write them. Here
nothing can be waited for. The policy lets it in or refuses it, and hears how it ended; nothing is repeated.

**Time.** gRPC sends its own deadline along. It is what the policy leaves of its time, attempt by attempt; `timeout=` of
the caller bounds the whole call with all of its attempts. A stream is bounded by the deadline, and by `Timeout` only up
to its first message.

**Errors.** What the policy decides is raised as it is: `CircuitOpen`, `BulkheadFull`, `TimedOut`. What the other side
says stays a `grpc.RpcError`. When the caller's own `timeout=` is over, it is both: `RpcDeadlineExceeded`.

Sources: gRPC Python's interceptors; gRFC A6 (retries, pushback by the server).
"""

from hormesis.outbound.grpc.aio import policy_interceptors
from hormesis.outbound.grpc.blocking import PolicyInterceptor
from hormesis.outbound.grpc.rpc import Repeatable, RpcDeadlineExceeded

__all__ = ["PolicyInterceptor", "Repeatable", "RpcDeadlineExceeded", "policy_interceptors"]
