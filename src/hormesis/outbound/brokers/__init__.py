"""Consumers of message brokers that pull no more than they can process; one module for each broker.

redis_streams, nats, rabbitmq: each imports its client library, and says which extra brings it.
"""

from hormesis.outbound.brokers.consumer import Consumer, Message, Pulled, Transport

__all__ = ["Consumer", "Message", "Pulled", "Transport"]
