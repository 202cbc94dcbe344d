"""The order of issue, and what is counted of it."""

from functools import partial

from mutants.mutant import Mutant

mutant = partial(
    Mutant, file="dsv4_kernels/launcher/order.py", tests="tests/launcher/test_lanes.py"
)
overlap = partial(
    Mutant, file="dsv4_kernels/launcher/overlap.py", tests="tests/launcher/test_lanes.py"
)

MUTANTS = (
    mutant(
        "the chain's order, wave by wave",
        "(begin(place), nodes[place].wave, place)",
        "(nodes[place].wave, place)",
        killed_by="test_a_lane_takes_what_may_begin_first",
    ),
    mutant(
        "a lane is free at once",
        "end[first] = free[nodes[first].lane] = start + nodes[first].weight",
        "end[first] = start + nodes[first].weight",
        killed_by="test_nothing_begins_before_what_it_needs_or_while_its_lane_is_busy",
    ),
    mutant(
        "who writes over a buffer does not wait for its readers",
        "needs[edge.after].add(edge.before)",
        "needs[edge.after] |= {edge.before} if edge.kind != 'WAR' else set()",
        killed_by="test_the_order_is_one_that_the_edges_allow",
    ),
    mutant(
        "needs end when they begin",
        "done = [end[before] for before in needs[place]]",
        "done = [end[before] - nodes[before].weight for before in needs[place]]",
        killed_by="test_nothing_begins_before_what_it_needs_or_while_its_lane_is_busy",
    ),
    mutant(
        "a lane begins late",
        "return max([free.get(nodes[place].lane, 0), *done])",
        "return max([free.get(nodes[place].lane, 1), *done])",
        killed_by="test_nothing_begins_before_what_it_needs_or_while_its_lane_is_busy",
    ),
    overlap(
        "a lane's nodes may run at a time",
        "own = {last[node.lane]} if node.lane in last else set()",
        "own = set()",
        killed_by="test_the_counted_overlap_is_what_the_log_allows",
    ),
    overlap(
        "what an awaited node waited for is forgotten",
        "done |= before[earlier] | {earlier}",
        "done |= {earlier}",
        killed_by="test_the_counted_overlap_is_what_the_log_allows",
    ),
    overlap(
        "nodes of one lane count as beside each other",
        " and other.lane != node.lane",
        "",
        killed_by="test_two_lanes_without_an_edge_may_run_at_a_time",
    ),
    overlap(
        "a node that comes before may run beside",
        "if at not in before[place] and place not in before[at]",
        "if place not in before[at]",
        killed_by="test_nothing_runs_beside_anything_where_all_is_one_chain",
    ),
    overlap(
        "bytes of the other lane are counted",
        "found[lane] = found.get(lane, 0) + node.weight",
        "found[lane] = found.get(lane, 0) + 1",
        killed_by="test_two_lanes_without_an_edge_may_run_at_a_time",
    ),
)
