"""The gate: weights are given back to the last one, priorities have shares, lanes do not touch each other."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission.collector import AdmissionCollector
from service.admission.gate import BASE_WEIGHT, CEILING, Gate, Lane, Priority

SINGLE, BATCH = Lane.SINGLE, Lane.BATCH


def admit_all(gate, lane, priority, num_bytes=350):
    """Every ticket that the gate gives in a row."""
    tickets = []
    while ticket := gate.admit(lane, priority, num_bytes):
        tickets.append(ticket)
    return tickets


def test_a_burst_of_short_requests_is_admitted_and_one_without_end_is_not():
    gate = Gate(0.025)
    assert 1000 <= len(admit_all(gate, SINGLE, Priority.NORMAL, num_bytes=100)) < 3000
    assert gate.refused == {(SINGLE, Priority.NORMAL): 1}


def test_long_requests_weigh_more_than_short_ones():
    counts = [len(admit_all(Gate(0.025), SINGLE, Priority.NORMAL, size)) for size in (20, 350, 7000)]
    assert counts[0] > 3 * counts[1] > 9 * counts[2]


def test_where_low_ones_are_refused_normal_ones_pass_and_then_high_ones():
    gate = Gate(0.025)
    admit_all(gate, SINGLE, Priority.LOW)
    assert gate.under_way[SINGLE] <= CEILING / 2
    assert admit_all(gate, SINGLE, Priority.NORMAL)
    assert gate.admit(SINGLE, Priority.LOW, 10) is None
    assert admit_all(gate, SINGLE, Priority.HIGH)


def test_batches_use_up_nothing_of_single_requests():
    gate = Gate(0.025)
    assert admit_all(gate, BATCH, Priority.HIGH, 100_000)
    assert gate.under_way[SINGLE] == 0
    assert gate.admit(SINGLE, Priority.LOW, 100)


def test_a_lane_where_nothing_is_under_way_admits_whatever_comes():
    gate = Gate(0.025)
    assert gate.admit(SINGLE, Priority.LOW, 2**30)
    assert gate.admit(SINGLE, Priority.NORMAL, 350) is None


@pytest.mark.parametrize(("arms", "weight"), [(1, 20), (2, 40), (1.5, 30)])
def test_a_request_weighs_what_all_its_arms_compute(arms, weight):
    gate = Gate(0.025)
    ticket = gate.admit(SINGLE, Priority.NORMAL, 350)
    ticket.settle(num_items=20 - BASE_WEIGHT)
    ticket.multiply(arms)
    assert gate.under_way[SINGLE] == weight
    ticket.end()
    assert gate.under_way[SINGLE] == 0


def test_the_weight_follows_what_the_body_turned_out_to_be():
    gate = Gate(0.025)
    ticket = gate.admit(SINGLE, Priority.NORMAL, None)
    ticket.settle(num_items=4)
    assert gate.under_way[SINGLE] == BASE_WEIGHT + 4
    ticket.end()
    ticket.end()
    assert gate.under_way[SINGLE] == 0


@given(st.lists(st.tuples(st.sampled_from(Lane), st.sampled_from(Priority), st.none() | st.integers(0, 10**6))))
def test_what_was_admitted_is_given_back_to_the_last_weight(asked):
    gate = Gate(0.025)
    tickets = [ticket for ticket in (gate.admit(*each) for each in asked) if ticket]
    for number, ticket in enumerate(tickets):
        ticket.settle(number)
    for ticket in tickets:
        ticket.end()
    assert gate.under_way == dict.fromkeys(Lane, 0)
    assert sum(gate.admitted.values()) + sum(gate.refused.values()) == len(asked)


@pytest.mark.parametrize("is_early", [True, False], ids=["before it began", "while it is done"])
def test_who_leaves_ends_the_work(is_early):
    async def main():
        ticket = Gate(0.025).admit(SINGLE, Priority.NORMAL, 10)
        task = asyncio.create_task(asyncio.sleep(20))
        for step in (
            (ticket.leave, lambda: ticket.serve_by(task))
            if is_early
            else (
                lambda: ticket.serve_by(task),
                ticket.leave,
            )
        ):
            step()
        await asyncio.wait([task])
        return task.cancelled(), ticket.has_left

    assert asyncio.run(main()) == (True, True)


def test_only_the_first_wait_of_a_batch_counts():
    gate = Gate(0.025)
    ticket = gate.admit(BATCH, Priority.NORMAL, 10)
    for seconds in (0.1, 50.0):
        ticket.record_wait(seconds)
    assert gate.limits[BATCH]._count == 1


def test_metrics_name_lane_and_priority():
    gate = Gate(0.025)
    admit_all(gate, SINGLE, Priority.LOW)
    [refused] = [family for family in AdmissionCollector(gate).collect() if family.name == "recall_refused"]
    assert [sample.labels for sample in refused.samples] == [{"lane": "single", "priority": "low"}]
