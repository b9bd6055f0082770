"""Any sequence of calls keeps the promises: exact bytes, nothing pinned goes, nothing is freed twice, no root sees another."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule, run_state_machine_as_test

from tilth.inference.cache.admission import Admission
from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.policies.flop_aware import FlopAware
from tilth.inference.cache.policies.greedy_dual import GreedyDual
from tilth.inference.cache.policies.hit_density import HitDensity
from tilth.inference.cache.policies.lru import LRU
from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.policies.superseded import SupersededFirst
from tilth.inference.cache.policies.tuned_flop_aware import TunedFlopAware
from tilth.inference.cache.prefix_cache import PrefixCache
from tilth.inference.cache.selector import Selector

# primes, so that no sum of the one looks like the other
COSTS = StateCosts(kv_bytes=7, checkpoint_bytes=31, token_flops=10.0, pair_flops=1.0)
ROOTS = ("base", "base", "tenant", ("base", "salt"))

tokens_to_read = st.lists(st.integers(0, 1), min_size=1, max_size=6)


NO_SLOTS = np.zeros(0, dtype=np.int32)


class Running:
    """A request as an engine has it: its match, its tokens so far, and the slots it believes to hold."""

    def __init__(self, match, tokens):
        self.match, self.tokens = match, tokens
        self.slots = NO_SLOTS if match.slots is None else match.slots.copy()
        self.n_shared = match.n_tokens  # so many of them are the tree's

    @property
    def pinned(self):
        return self.slots[: self.n_shared].tolist()

    @property
    def own(self):
        return self.slots[self.n_shared :].tolist()


class CacheMachine(RuleBasedStateMachine):
    """The oracle is a dictionary of all slots: to which root and prefix each belongs, until it is freed."""

    running = Bundle("running")
    told = Bundle("told")  # what was read and written: others go on from there
    costs = COSTS
    admission: Admission | None = None

    def new_policy(self) -> Policy:
        return LRU()

    def __init__(self):
        super().__init__()
        self.capacity = 180
        self.owner: dict[int, tuple] = {}  # slot -> (root, the tokens up to and with its own)
        self.states: dict[int, tuple] = {}  # checkpoint -> (root, tokens)
        self.n_made = 0
        self.in_flight: list[Running] = []
        self.reserved = 0
        self.now = 0.0
        self.seen: Counter = Counter()
        self.cache = PrefixCache(self.costs, self.capacity, self.new_policy(), self.free_slots, self.free_state, self.admission)

    # What the cache calls.

    def free_slots(self, slots):
        pinned = {slot for request in self.in_flight for slot in request.pinned}
        for slot in slots.tolist():
            assert slot in self.owner, "freed twice, or never given"
            assert slot not in pinned, "freed while a request uses it"
            del self.owner[slot]

    def free_state(self, state):
        assert state in self.states, "freed twice, or never given"
        assert state not in {request.match.checkpoint for request in self.in_flight if request.match.reads_checkpoint}
        del self.states[state]

    def new_slots(self, root, tokens, start):
        made = range(self.n_made, self.n_made + len(tokens) - start)
        self.n_made += len(made)
        self.owner |= {slot: (root, tuple(tokens[: start + k + 1])) for k, slot in enumerate(made)}
        return np.array(made, dtype=np.int32)

    def new_states(self, root, tokens, positions):
        states = {}
        for at in positions:
            self.n_made += 1
            states[at] = self.n_made
            self.states[self.n_made] = (root, tuple(tokens[:at]))
        return states

    # What an engine does.

    @rule(target=running, root=st.sampled_from(ROOTS), tokens=tokens_to_read)
    def begin(self, root, tokens):
        return self.match(root, tokens)

    @rule(target=running, told=told, more=tokens_to_read)
    def go_on(self, told, more):
        root, tokens = told
        return self.match(root, tokens[:20] + more)

    @rule(target=running, told=told, share=st.floats(0.2, 1), more=tokens_to_read)
    def go_on_from_within(self, told, share, more):
        root, tokens = told
        return self.match(root, tokens[: int(share * len(tokens[:20]))] + more)

    def match(self, root, tokens):
        self.now += 1
        match = self.cache.match(root, np.array(tokens), self.now)
        assert match.n_tokens <= match.n_known <= len(tokens)
        assert match.n_tokens <= len(tokens) - 1
        assert match.cut is None or match.n_tokens < match.cut <= len(tokens) - 1
        if match.n_tokens:
            if self.costs.checkpoint_bytes:
                assert self.states[match.checkpoint] == (root, tuple(tokens[: match.n_tokens]))
            assert [self.owner[slot] for slot in match.slots.tolist()] == [
                (root, tuple(tokens[: k + 1])) for k in range(match.n_tokens)
            ]
        else:
            assert match.checkpoint is None
        request = Running(match, tokens)
        self.in_flight.append(request)
        self.seen["hit" if match.n_tokens else "miss"] += 1
        return request

    @rule(
        target=told,
        request=running,
        more=st.lists(st.integers(0, 1), max_size=4),
        keeps_last=st.sampled_from([True, True, False]),
    )
    def insert(self, request, more, keeps_last):
        self.now += 1
        match, tokens = request.match, request.tokens + more
        self.read_to_cut(request)
        slots = np.concatenate([request.slots, self.new_slots(match.root, tokens, len(request.slots))])
        self.hand_over(request, tokens, slots, {len(tokens)} if keeps_last else set())
        request.tokens = tokens
        return match.root, tokens

    @rule(request=running)
    def read_to_cut(self, request):
        """The first part of a prefill ends at the cut, and its states go to the cache before the rest is read."""
        cut, root = request.match.cut, request.match.root
        if cut is not None and len(request.slots) < cut:
            slots = np.concatenate([request.slots, self.new_slots(root, request.tokens[:cut], len(request.slots))])
            self.hand_over(request, request.tokens[:cut], slots, {cut})

    def hand_over(self, request, tokens, slots, positions):
        match = request.match
        states = self.new_states(match.root, tokens, positions)
        returned = self.cache.insert(match, np.array(tokens), slots, states, self.now)
        assert len(returned) == match.n_held >= request.n_shared
        request.n_shared = match.n_held
        request.slots = np.concatenate([returned, slots[match.n_held :]])
        assert [self.owner[slot] for slot in request.slots.tolist()] == [
            (match.root, tuple(tokens[: k + 1])) for k in range(len(tokens))
        ]

    @rule(request=consumes(running))
    def release(self, request):
        self.in_flight.remove(request)
        self.cache.release(request.match)
        for slot in request.own:  # what the tree never took is freed by its owner
            del self.owner[slot]
        with pytest.raises(ValueError, match="released"):
            self.cache.release(request.match)

    @rule(n_bytes=st.integers(0, 120))
    def reserve(self, n_bytes):
        before = self.cache.recount()
        if self.cache.reserve(n_bytes):
            self.reserved += n_bytes
        else:
            assert self.cache.recount() == before, "nothing is evicted in vain"
            assert n_bytes > before.room_bytes

    @precondition(lambda self: self.reserved)
    @rule(share=st.floats(0, 1))
    def give_back(self, share):
        n_bytes = int(self.reserved * share)
        self.cache.give_back(n_bytes)
        self.reserved -= n_bytes

    @rule(root=st.sampled_from([*ROOTS[1:], None]))
    def clear(self, root):
        self.cache.clear(root)

    # What must always be so.

    @invariant()
    def bytes_are_exact_and_under_the_cap(self):
        assert self.cache.ledger == self.cache.recount()
        assert 0 <= self.cache.used_bytes <= self.capacity
        assert self.cache.reserved_bytes == self.reserved
        assert self.cache.used_bytes == self.cache.kv_bytes + self.cache.checkpoint_bytes + self.reserved

    @invariant()
    def slots_and_states_are_in_the_tree_or_with_a_request(self):
        kept = [slot for node in self.cache.contents.tree.nodes() for slot in node.slots.tolist()]
        beyond = [slot for request in self.in_flight for slot in request.own]
        assert sorted(kept + beyond) == sorted(self.owner)
        states = [node.checkpoint for node in self.cache.contents.tree.nodes() if node.has_checkpoint]
        assert sorted(states) == sorted(self.states)

    @invariant()
    def nodes_are_where_they_should_be(self):
        ends = Counter(id(request.match.node) for request in self.in_flight if request.match.node is not None)
        tree, rows = self.cache.contents.tree, self.cache.contents.candidates
        n_nodes = 0
        for node in tree.nodes():
            n_nodes += 1
            assert node.depth == node.parent.depth + len(node.edge)
            assert node.parent.children[int(node.edge[0])] is node
            assert node.locks == ends[id(node)] + sum(child.locks for child in node.children.values())
            is_needed = node.has_checkpoint or len(node.children) != 1 or ends[id(node)]
            assert is_needed, "a node that stands for nothing"
            may_go = (node.is_leaf and not node.locks) or (node.has_checkpoint and not node.checkpoint_pins)
            assert (node.row >= 0) == may_go
            assert node.row < 0 or rows.nodes[node.row] is node
        assert n_nodes == tree.n_nodes
        assert all(top.children for top in tree.roots.values())

    def teardown(self):
        for request in list(self.in_flight):
            self.release(request)
        self.cache.clear()
        assert self.cache.used_bytes == self.reserved
        assert not self.owner
        assert not self.states


STEPS = settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))


class PureAttention(CacheMachine):
    """No recurrent layer: any known token can be reused, and a checkpoint is nothing."""

    costs = dataclasses.replace(COSTS, checkpoint_bytes=0)


class PureRecurrent(CacheMachine):
    """No keys: tokens take no bytes, and go with the last state that needs them."""

    costs = dataclasses.replace(COSTS, kv_bytes=0)

    @invariant()
    def no_tokens_without_states(self):
        assert all(node.has_checkpoint or node.locks or node.children for node in self.cache.contents.tree.nodes())


class FewOnAPath(CacheMachine):
    admission = Admission(max_checkpoints_per_path=2)


class LeavesAlone(CacheMachine):
    def new_policy(self) -> Policy:
        return LRU(only_leaves=True, touches_path=True)


class ByFlops(CacheMachine):
    def new_policy(self) -> Policy:
        return FlopAware(1.0)


class Tuned(CacheMachine):
    def new_policy(self) -> Policy:
        return TunedFlopAware(bootstrap=0.5)


class Dual(CacheMachine):
    def new_policy(self) -> Policy:
        return SupersededFirst(GreedyDual())


class Density(CacheMachine):
    def new_policy(self) -> Policy:
        return SupersededFirst(HitDensity())


class Selected(CacheMachine):
    """Arms change often, and the shadows keep the promises, too."""

    def new_policy(self) -> Policy:
        return Selector(half_life=8, margin=0.0)

    @invariant()
    def shadows_are_exact(self):
        for shadow in self.cache.policy.shadows:
            assert shadow.cache.ledger == shadow.cache.recount()
            assert 0 <= shadow.cache.used_bytes <= shadow.cache.capacity_bytes


class Sampled(Selected):
    """The shadows see half of the conversations, in half of the bytes."""

    def new_policy(self) -> Policy:
        return Selector(half_life=8, margin=0.0, share=0.5)


MACHINES = (CacheMachine, PureAttention, PureRecurrent, FewOnAPath, LeavesAlone, ByFlops, Tuned, Dual, Density, Selected, Sampled)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_any_sequence_of_calls(machine: type[CacheMachine]) -> None:
    run_state_machine_as_test(machine, settings=STEPS)


@pytest.mark.parametrize("machine", [CacheMachine, Selected])
def test_some_sequences_of_calls(machine: type[CacheMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(STEPS, max_examples=8))
