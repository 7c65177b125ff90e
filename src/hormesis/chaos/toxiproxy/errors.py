"""What the API answers when it can't do as asked: a status, and a sentence that begins with Toxiproxy's own words.

Clients compare these words ("proxy not found"), so they stay as they are; what we know beyond them follows a colon.
"""

from __future__ import annotations

from hormesis.errors import HormesisError

__all__ = ["ApiError", "bad_request", "missing_field"]


class ApiError(HormesisError):
    """A request that can't be done.

    Args:
        status: Of HTTP.
        message: The whole sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message

    @property
    def as_json(self) -> dict[str, object]:
        """The body of the answer."""
        return {"error": self.message, "status": self.status}


def bad_request(why: HormesisError | str) -> ApiError:
    """Say that a body can't be meant."""
    return ApiError(400, f"bad request body: {why}")


def missing_field(name: str) -> ApiError:
    """Say that a field is missing which has no default."""
    return ApiError(400, f"missing required field: {name}")
