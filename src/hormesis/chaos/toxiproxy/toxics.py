"""Toxics: a fault as Toxiproxy's API has it, and the fault on the wire that it means.

A toxic has a type, a direction (`stream`), the share of connections that it affects (`toxicity`), and attributes. Their
numbers are in Toxiproxy's units, which differ: milliseconds, but microseconds between slices; kilobytes a second, but
bytes of a slice. Where a number will do, so will a text with its unit: `"2s"`, `"20KB/s"`.

Beyond Toxiproxy:

- each of our faults on the wire is a type, with the name and the settings that it has in a file: `black_hole`,
  `status`;
- every type takes the settings that say whom a fault strikes, and when (`hormesis.chaos.faults.aim`), as attributes;
- `stream` may be `"both"`;
- an attribute that the type does not have is refused. Toxiproxy leaves it out, and injects nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple, TypeAlias, get_args

from hormesis.chaos.faults import (
    Bandwidth,
    BlackHole,
    Latency,
    LimitData,
    Loss,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
    WireFault,
)
from hormesis.chaos.faults.aim import ByRequest
from hormesis.chaos.faults.checks import is_number
from hormesis.chaos.toxiproxy.errors import ApiError, bad_request
from hormesis.chaos.toxiproxy.fields import Table, field, name_of, object_of
from hormesis.errors import ConfigurationError
from hormesis.units import bytes_of, bytes_per_second, seconds

__all__ = ["Toxic"]

_Settings: TypeAlias = dict[str, Any]


class _Unit(NamedTuple):
    """What one of a number is in ours (seconds, bytes, bytes a second), what reads it as a text, what it takes."""

    size: float
    read: Callable[[Any, str], float]
    accepted: str

    def value(self, key: str, value: object) -> float:
        """Return it in our units."""
        refusal = ConfigurationError.bad_value(key, value, self.accepted)
        if isinstance(value, str):
            meant: object = value
        elif is_number(value) and 0 <= value <= _LARGEST:
            number = float(value) * self.size
            meant = int(number) if number.is_integer() else number
        else:
            raise refusal
        try:
            return self.read(meant, key) if meant else 0
        except ConfigurationError:
            raise refusal from None


_LARGEST = 2**53
"""Up to here a number means the same in JSON, Go and Python."""


def _duration(value: Any, key: str) -> float:
    return seconds(value, key, zero=True)


def _size(value: Any, key: str) -> float:
    return bytes_of(value, key, least=0)


_MS = _Unit(1e-3, _duration, "milliseconds from 0, or a text like '300ms', '2s'")
_US = _Unit(1e-6, _duration, "microseconds from 0, or a text like '500us', '10ms'")
_KB_PER_S = _Unit(1e3, bytes_per_second, "kilobytes a second from 0, or a text like '20KB/s'")
_BYTES = _Unit(1, _size, "a whole number of bytes from 0, or a text like '64KB'")


_ATTRIBUTES: dict[str, dict[str, _Unit]] = {
    "latency": {"latency": _MS, "jitter": _MS},
    "bandwidth": {"rate": _KB_PER_S},
    "slow_close": {"delay": _MS},
    "timeout": {"timeout": _MS},
    "reset_peer": {"timeout": _MS},
    "slicer": {"average_size": _BYTES, "size_variation": _BYTES, "delay": _US},
    "limit_data": {"bytes": _BYTES},
    "noop": {},
}
"""Toxiproxy's own types, and their attributes, each 0 where it is not given."""


def _toxiproxys(kind: str, values: Mapping[str, float]) -> tuple[type[WireFault], _Settings] | None:
    """Return what one of Toxiproxy's types means in our units; None when it does nothing."""
    match kind:
        case "latency" if any(values.values()):
            return Latency, dict(values)
        case "bandwidth" if values["rate"]:
            return Bandwidth, {"bandwidth": values["rate"]}
        case "bandwidth":  # people cut connections with it: what is held flows when it ends
            return BlackHole, {}
        case "slow_close":
            return SlowClose, {"slow_close": values["delay"]}
        case "timeout":
            return Timeout, dict(values)
        case "reset_peer":
            return ResetPeer, {"reset_peer": values["timeout"]}
        case "slicer":
            return Slicer, _slices(**values)
        case "limit_data":
            return LimitData, {"limit_data": values["bytes"]}
    return None


def _slices(average_size: float, size_variation: float, delay: float) -> _Settings:
    if not average_size:
        raise ConfigurationError.bad_value("average_size", 0, "bytes from 1")
    if size_variation >= average_size:
        accepted = f"bytes from 0 to less than average_size, which is {average_size:g}"
        raise ConfigurationError.bad_value("size_variation", size_variation, accepted)
    return {"slicer": average_size, "variation": size_variation, "delay": delay}


_OURS: dict[str, type[WireFault]] = {
    name: kind
    for kind in get_args(WireFault)
    if (name := next(each.name for each in fields(kind) if not each.kw_only)) not in _ATTRIBUTES and kind is not Loss
}
"""The faults on the wire that Toxiproxy does not have, by the setting that names each. A proxy can't lose packets."""

_AIM = tuple(each.name for each in fields(ByRequest) if each.name != "share")
"""The settings that say whom a fault strikes, and when; the share is the toxicity."""


@dataclass(frozen=True, slots=True)
class Toxic:
    """A toxic as it was asked for, and what it means.

    Args:
        type: Of Toxiproxy, or the name of one of our faults.
        name: Its own; by default `<type>_<stream>`.
        stream: The direction.
        toxicity: The share that it strikes.
        attributes: As they were given; those of Toxiproxy's types are all there.
        fault: What it means; None for one that does nothing.
    """

    type: str
    name: str
    stream: Stream
    toxicity: float
    attributes: Mapping[str, Any]
    fault: WireFault | None

    @classmethod
    def from_json(cls, value: object) -> Toxic:
        """Read a new one.

        >>> Toxic.from_json({"type": "latency", "attributes": {"latency": 100, "connections": "1-2"}}).fault
        Latency(0.1, connections='1-2')

        Raises:
            ApiError: It can't be meant.
        """
        table = object_of(value, "the toxic")
        kind = field(table, "type", str, "")
        if kind not in _ATTRIBUTES and kind not in _OURS:
            unknown = ConfigurationError.unknown("type", kind[:60], [*_ATTRIBUTES, *_OURS])
            raise ApiError(400, f"invalid toxic type: {unknown}")
        stream = field(table, "stream", str, _default_stream(kind)).lower()
        if stream not in get_args(Stream):
            message = "stream was invalid, can be either upstream or downstream"
            raise ApiError(400, f"{message}; or both: it is {stream[:60]!r}")
        name = name_of(table) or f"{kind}_{stream}"
        return cls._made(kind, name, stream, _toxicity(table, 1.0), _attributes(table))

    def updated(self, value: object) -> Toxic:
        """Return it with other attributes or toxicity; what is not given stays, and so do name, type and stream.

        Raises:
            ApiError: It can't be meant.
        """
        table = object_of(value, "the toxic")
        attributes = {**self.attributes, **_attributes(table)}
        return self._made(self.type, self.name, self.stream, _toxicity(table, self.toxicity), attributes)

    @classmethod
    def _made(cls, kind: str, name: str, stream: Any, toxicity: float, attributes: Table) -> Toxic:
        shown = dict.fromkeys(_ATTRIBUTES.get(kind, ()), 0) | attributes
        try:
            fault = _fault(kind, stream, toxicity, shown)
        except ConfigurationError as error:
            raise bad_request(error) from None
        return cls(kind, name, stream, toxicity, shown, fault)

    @property
    def as_json(self) -> dict[str, object]:
        """As the API shows it."""
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
            "attributes": dict(self.attributes),
        }


def _fault(kind: str, stream: Stream, toxicity: float, attributes: Table) -> WireFault | None:
    """Return what a toxic means; None when it does nothing.

    Raises:
        ConfigurationError: It can't be meant.
    """
    aim = {key: value for key, value in attributes.items() if key in _AIM}
    own = {key: value for key, value in attributes.items() if key not in _AIM}
    units = _ATTRIBUTES.get(kind)
    if units is None:
        meant: tuple[type[WireFault], _Settings] | None = (_OURS[kind], own)
        known = [each.name for each in fields(_OURS[kind]) if each.name not in (*_AIM, "share", "stream")]
    else:
        meant = _toxiproxys(kind, {key: unit.value(key, own[key]) for key, unit in units.items()})
        known = list(units)
    # What does nothing is held to its other attributes all the same: an update may make it do something.
    fault, settings = meant or (BlackHole, {})
    takes = {each.name: each for each in fields(fault)}
    for key in attributes:
        if key not in known and key not in aim.keys() & takes.keys():
            everything = [*known, *(each for each in _AIM if each in takes)]
            raise ConfigurationError.unknown(f"attribute of a {kind} toxic", key, everything)
    for each in takes.values():
        if each.name not in settings and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigurationError(f"attribute {each.name} of a {kind} toxic is missing", each.name)
    settings = settings | aim
    if "stream" in takes:
        settings["stream"] = stream
    if "share" in takes:
        settings["share"] = toxicity or 1.0
    elif 0 < toxicity < 1:
        raise ConfigurationError.bad_value("toxicity", toxicity, f"1 or 0 where the type is {kind}: it strikes all")
    made = fault(**settings)
    return made if meant and toxicity else None


def _default_stream(kind: str) -> str:
    """Return the direction that a type has by itself: of ours, some are about both."""
    defaults = {each.name: each.default for each in fields(_OURS[kind])} if kind in _OURS else {}
    return str(defaults.get("stream", "downstream"))


def _toxicity(table: Table, default: float) -> float:
    toxicity = table.get("toxicity", default)
    if not is_number(toxicity) or not 0 <= toxicity <= 1:
        raise bad_request(ConfigurationError.bad_value("toxicity", toxicity, "a part of the connections, 0 to 1 (all)"))
    return toxicity


def _attributes(table: Table) -> Table:
    return object_of(table.get("attributes", {}), "attributes")
