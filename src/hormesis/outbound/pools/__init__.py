"""Connection pools that keep traffic classes apart: the bulkhead of those who hold connections.

One pool for everything is one queue for everything: when slow reports hold all of its connections, a login waits behind
them, with the database idle. `ConnectionPools` declares once how many connections each class of traffic has; from that
come pools of SQLAlchemy, psycopg, httpx or redis-py, one for each class, with nothing in common but the server.

The class of a call is its label `traffic` (`with hormesis.context.calling(traffic="reporting")`), so code far below,
which knows nothing of classes, asks `pools.current`. Waiting for a connection is bounded, and the deadline of the call
bounds it further, where the library lets that be said: in all of these.
"""

from hormesis.outbound.pools.classes import AsyncPools, Pools, PoolSnapshot
from hormesis.outbound.pools.declaration import ConnectionPools

__all__ = ["AsyncPools", "ConnectionPools", "PoolSnapshot", "Pools"]
