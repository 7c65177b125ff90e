"""Recorded traffic: each form is read, whatever its order and where it counts from, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hormesis.errors import ConfigurationError
from hormesis.loadgen.traces import read_trace

LOG = """\
10.0.0.1 - - [10/Oct/2026:13:55:36 +0200] "GET /a HTTP/1.1" 200 12
10.0.0.1 - bob [10/Oct/2026:13:55:38 +0200] "GET /b HTTP/1.1" 200 12 "-" "curl/8 [x]"
10.0.0.2 - - [10/Oct/2026:13:55:36 +0200] "POST /c HTTP/1.1" 201 7
10.0.0.2 - - [10/Oct/2026:11:55:38 +0000] "POST /c HTTP/1.1" 201 7
"""


@pytest.mark.parametrize(
    ("text", "offsets", "names"),
    [
        ("0\n0.5\n2\n", [0, 0.5, 2], ()),
        ("# seconds\n\n1795805237.25\n1795805236.75\n", [0, 0.5], ()),
        ("0,buy\n0.25,read\n", [0, 0.25], ("buy", "read")),
        ("request,offset\nbuy,3\nread,1\n", [0, 2], ("read", "buy")),
        ("Timestamp\n5\n6\n", [0, 1], ()),
        ('{"offset": 2, "request": "buy"}\n{"offset": 1, "request": "a, b"}\n', [0, 1], ("a, b", "buy")),
        ('{"time": 2}\n{"at": 1}\n', [0, 1], ()),
        (LOG, [0, 0.5, 2, 2.5], ()),
    ],
)
def test_each_form_is_read(tmp_path: Path, text: str, offsets: list[float], names: tuple[str, ...]) -> None:
    """Arrivals are in order and counted from the first; the requests of one logged second are spread over it."""
    file = tmp_path / "trace"
    file.write_text(text)
    trace = read_trace(file)
    assert list(trace.offsets) == pytest.approx(offsets)
    assert trace.requests == names
    assert list(read_trace(file, speed=2).offsets) == pytest.approx([offset / 2 for offset in offsets])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no arrivals"),
        ("# nothing\n\n", "holds no arrivals"),
        ("offset\n", "holds no arrivals"),
        ("0\nsoon\n", "line 2 is 'soon'; it takes seconds"),
        ("0\nnan\n", "line 2 is 'nan'"),
        ("0,buy\n1\n", "line 2 is '1'"),
        ("0,buy\n1,\n", "1 of 2 arrivals name no request; all of them do, or none"),
        ('{"offset": 1}\n{"when": 2}\n', "line 2 is"),
        ('{"offset": 1}\n[]\n', "line 2 is"),
        (LOG + "garbage\n", "line 5 is 'garbage'"),
        ("x" * 500, "line 1 is 'xxx"),
        ("0\n1795805237000\n", "takes 1.79581e"),
        ("-1e308\n1e308\n", "takes inf s; up to 604,800 are replayed"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The error names the file and the line."""
    file = tmp_path / "trace"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as refused:
        read_trace(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert len(str(refused.value)) < len(str(file)) + 160


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """So are a folder and a speed of nothing."""
    with pytest.raises(ConfigurationError, match="can't be read: No such file"):
        read_trace(tmp_path / "nope")
    with pytest.raises(ConfigurationError, match="can't be read: Is a directory"):
        read_trace(tmp_path)
    with pytest.raises(ConfigurationError, match="speed is 0"):
        read_trace(tmp_path, speed=0)
