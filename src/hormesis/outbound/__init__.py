"""Where people are: client libraries, and what kinds of failure their exceptions are."""
