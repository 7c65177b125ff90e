"""What people and machines read of a game day: the same findings as words, a table, a page and plain data.

`words` turns findings into sentences, `terminal` into tables, `page` into one HTML file with what `charts` draws,
`plain` into JSON. `exploration` makes a page of what an exploration found. `progress` tells of a game day as it runs.
"""

from hormesis.gameday.report.page import write_page
from hormesis.gameday.report.plain import as_json
from hormesis.gameday.report.progress import Observer, PatientConsole, observer
from hormesis.gameday.report.terminal import print_report

__all__ = ["Observer", "PatientConsole", "as_json", "observer", "print_report", "write_page"]
