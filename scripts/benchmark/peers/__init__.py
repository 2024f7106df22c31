"""The stores that are measured side by side: this one, and what one would use instead.

`shape` is what all of them are brought to; a module each for disks, memory, servers, and for what only counts.
"""

from peers.disk import OURS as OURS
