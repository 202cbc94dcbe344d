"""Runs a chain: its dependencies, lanes, executors, clocks, memory and waves.

| file         | what it does                                                                |
|--------------|-----------------------------------------------------------------------------|
| graph.py     | nodes that name their buffers, and the edges derived from that              |
| order.py     | in which order nodes are issued, so that no lane waits where it need not    |
| lanes.py     | the fewest event waits that enforce every edge on a stream per lane         |
| overlap.py   | what may run at a time, as a share of bytes; the critical path              |
| executors.py | who runs the nodes: in order, or a stream per lane                          |
| clocks.py    | executors that also take times                                              |
| plan.py      | memory, waves, turns and graphs of a set of shapes                          |

Nothing here knows Triton or a segment: a node is something to run, a lane, and names of buffers.
"""
