"""Traces: networks of one architecture share one, none holds weights, and what differs is found out."""

import pytest
import torch

from model.compiled import TRACES, CompiledForward, _Answers, _equal, probe_batch
from model.networks import build_network
from model.records import PromptPlan

SIZES = {"num_items": 60, "num_users": 5, "dim": 16, "max_length": 12, "dropout": 0.0}
TWO_STEPS = PromptPlan(num_steps=2)


def network_of(seed, kind="recgpt", **sizes):
    torch.manual_seed(seed)
    layers = {"num_layers": 1, "num_heads": 2} if kind == "recgpt" else {}
    return build_network(kind, SIZES | layers | sizes).eval()


@pytest.fixture(autouse=True)
def no_traces():
    TRACES.clear()
    yield
    TRACES.clear()


@pytest.mark.parametrize("kind", ["recgpt", "comirec"])
def test_networks_of_one_architecture_share_a_trace_and_answer_with_their_own_weights(kind):
    networks = [network_of(seed, kind) for seed in range(3)]
    plan = TWO_STEPS if kind == "recgpt" else PromptPlan()
    forwards = [CompiledForward.of(network, plan, 4, 7) for network in networks]
    assert [forward.eager for forward in forwards] == [""] * 3
    assert len(TRACES) == 1
    for network, forward in zip(networks, forwards, strict=True):
        probe = probe_batch(network, 4, 7, seed=9)
        with torch.no_grad():
            assert _equal(forward.call(*probe), _Answers(network, plan, None)(*probe))


@pytest.mark.parametrize(
    "other",
    [
        {"plan": PromptPlan()},
        {"sizes": {"num_layers": 2}},
        {"sizes": {"num_heads": 4}},
        {"sizes": {"num_items": 61}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_changes_the_operations_has_a_trace_of_its_own(other):
    CompiledForward.of(network_of(1), TWO_STEPS, 4, 7)
    network = network_of(2, **other.get("sizes", {}))
    forward = CompiledForward.of(network, other.get("plan", TWO_STEPS), 4, 7)
    assert (forward.eager, len(TRACES)) == ("", 2)


def functions():
    """The traces, each once."""
    return {function for shared in TRACES.values() for function in shared.values()}


@pytest.mark.parametrize(("kind", "plan"), [("recgpt", TWO_STEPS), ("comirec", PromptPlan()), ("sasrec", PromptPlan())])
def test_shapes_share_a_trace_but_those_of_so_few_rows_that_they_are_filled_up(kind, plan):
    network = network_of(1, kind)
    forwards = [CompiledForward.of(network, plan, size, length) for length in (12, 7) for size in (8, 4, 16)]
    assert ([forward.eager for forward in forwards], len(functions())) == ([""] * 6, 1)
    for forward in forwards:
        probe = probe_batch(network, forward.size, forward.length, seed=9)
        with torch.no_grad():
            assert _equal(forward.call(*probe), _Answers(network, plan, None)(*probe))
    assert CompiledForward.of(network, plan, 1, 12).eager == ""
    assert len(functions()) == 2


@pytest.mark.parametrize("how", ["fails", "differs"])
def test_a_trace_that_does_not_serve_another_shape_is_found_out(how):
    network = network_of(1)
    CompiledForward.of(network, TWO_STEPS, 4, 12)
    [shared] = TRACES.values()

    def wrong(rows, lengths, users, *weights):
        if how == "fails":
            raise RuntimeError("The size of tensor a (12) must match the size of tensor b (7)")
        vectors, prompts = _Answers(network, TWO_STEPS, None)(rows, lengths, users)
        return 2 * vectors, prompts

    shared[next(iter(shared))] = wrong
    forward = CompiledForward.of(network, TWO_STEPS, 4, 7)
    probe = probe_batch(network, 4, 7)
    with torch.no_grad():
        assert _equal(forward.call(*probe), _Answers(network, TWO_STEPS, None)(*probe))
    assert (forward.eager, len(functions())) == ("", 2)


def test_a_trace_holds_no_weights():
    network = network_of(1)
    CompiledForward.of(network, TWO_STEPS, 4, 7)
    [function] = functions()
    held = [node.output().toIValue() for node in function.graph.findAllNodes("prim::Constant", True)]
    assert all(value.numel() <= 4 * 7 for value in held if isinstance(value, torch.Tensor))


def test_weights_that_are_changed_afterwards_are_the_ones_that_count():
    network = network_of(1)
    forward = CompiledForward.of(network, TWO_STEPS, 4, 7)
    with torch.no_grad():
        network.items.weight.mul_(2)
        probe = probe_batch(network, 4, 7)
        assert _equal(forward.call(*probe), _Answers(network, TWO_STEPS, None)(*probe))


def test_a_shared_trace_that_holds_something_of_another_network_is_found_out():
    first, second = network_of(1), network_of(2)
    eager = _Answers(first, TWO_STEPS, None).eval()
    CompiledForward.of(first, TWO_STEPS, 4, 7)
    [shared] = TRACES.values()
    # as a trace would be that had kept a tensor which is no parameter: it answers with the first one's
    shared[torch.Size((4, 7))] = lambda rows, lengths, users, *weights: eager(rows, lengths, users)
    forward = CompiledForward.of(second, TWO_STEPS, 4, 7)
    probe = probe_batch(second, 4, 7)
    with torch.no_grad():
        assert _equal(forward.call(*probe), _Answers(second, TWO_STEPS, None)(*probe))
    assert forward.eager == ""
