"""Answers of ours inside Django, which lets no exception of a view get past it.

    MIDDLEWARE = [..., "hormesis.inbound.django.Answers"]

The journey itself stands around the whole application, as `hormesis.inbound.wsgi.Protect` or `asgi.Protect`; this turns
what our policies refuse inside of views (`Rejected`, `TimedOut`) into the answers that it gives elsewhere: 503 and 504,
and 429 for a limit of the service's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from hormesis.errors import MissingExtraError
from hormesis.inbound.ground import Ground
from hormesis.inbound.request import current_request

try:
    from asgiref.sync import iscoroutinefunction, markcoroutinefunction
    from django.http import HttpRequest, HttpResponse  # type: ignore[import-untyped]
    from django.http.response import HttpResponseBase  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError("hormesis.inbound.django", "django") from error

__all__ = ["Answers"]

View = Callable[[HttpRequest], "HttpResponseBase | Awaitable[HttpResponseBase]"]


class Answers:
    """Django middleware, of both colours."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(cast("Any", self))

    def __call__(self, request: HttpRequest) -> Any:
        """Hand the request on."""
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer an exception of ours; None leaves it to Django."""
        served = current_request.get()
        if served is None or not isinstance(served.service, Ground):
            return None
        answer = served.service.answer_error(served, error)
        if answer is None:
            return None
        response = HttpResponse(answer.body, status=answer.status)
        for name, value in answer.headers:
            response[name] = value
        return response
