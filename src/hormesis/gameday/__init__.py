"""Game days: stress a real system of real processes, and see which failure modes it survives.

`experiment` is the file, `objectives` what must hold, `system` the processes and proxies of one arm, `runner` the
course of events, `verdict` the arithmetic from samples to objectives held or missed, `acted` what the policies' own
events tell, and `report` what people read.
"""
