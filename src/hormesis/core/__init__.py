"""The state machines and the arithmetic, without I/O.

Everything in here is synchronous and is handed the time, random numbers, locks and observations. No `time`, `random`,
`threading`, `asyncio` or `logging`: a test enforces it. So the same code serves threads, asyncio, the simulator and
tests on virtual time.
"""
