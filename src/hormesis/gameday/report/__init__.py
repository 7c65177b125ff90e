"""What people and machines read of a game day: the same findings as words, a table, a page and plain data.

`words` turns findings into sentences, `terminal` into a table, `page` into one HTML file with the timelines that
`plots` draws, `plain` into JSON. `progress` tells of a game day while it runs.
"""

from hormesis.gameday.report.page import write_page
from hormesis.gameday.report.plain import as_json
from hormesis.gameday.report.progress import Observer, PatientConsole, observer
from hormesis.gameday.report.terminal import print_report

__all__ = ["Observer", "PatientConsole", "as_json", "observer", "print_report", "write_page"]
