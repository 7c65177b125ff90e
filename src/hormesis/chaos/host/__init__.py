"""Faults that need the machine's help: what puts them into force, and says why it can't.

Each is an `Act`: it says in words whether this machine can do it (`possible`), gives its undo as data before anything
happens, and is put into force by `begin`. Most block (`BlockingAct`), and are therefore done off the loop. There is no
second way of taking one back: the runner, the watchdog and `hormesis undo` all carry out the same data.

Network faults touch nothing but the loopback, and there nothing but the ports of the system under test; or the networks
that were made for it.
"""

from hormesis.chaos.host.act import Act, BlockingAct, FaultFailed
from hormesis.chaos.host.cgroups import Quota
from hormesis.chaos.host.clock import FakeClock, Skew
from hormesis.chaos.host.disk import Disk, Fill
from hormesis.chaos.host.firewall import Loss as PacketLoss
from hormesis.chaos.host.firewall import RejectPort
from hormesis.chaos.host.limits import Lowered
from hormesis.chaos.host.namespace import Network, ThinCable, Unplugged
from hormesis.chaos.host.neighbours import Burn, Hog
from hormesis.chaos.host.shaping import ThinPort

__all__ = [
    "Act",
    "BlockingAct",
    "Burn",
    "Disk",
    "FakeClock",
    "FaultFailed",
    "Fill",
    "Hog",
    "Lowered",
    "Network",
    "PacketLoss",
    "Quota",
    "RejectPort",
    "Skew",
    "ThinCable",
    "ThinPort",
    "Unplugged",
]
