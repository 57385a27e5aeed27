"""Slot policies whose hits evict, in a policy of somebody else; SLRU and W-TinyLFU are in test_slot_policies.py."""

import pytest

import remoe_sim
from remoe_sim.policy import SlotPolicy, find
from tests.oracle.naive import DECODE, Row
from tests.support.strategies import CHOICES, Shape, trace_of


class Restless(SlotPolicy):
    """First in, first out; and what was hit takes the oldest with it, unless it is wanted in this step."""

    name = label = "restless"
    answer = None

    def setup(self, limit, sizes):
        self.queue, self.due = [], False

    def hit(self, entry):
        self.due = True

    def victim(self, protected):
        return next((self.queue.pop(i) for i, entry in enumerate(self.queue) if not protected[entry]), -1)

    def insert(self, entry):
        self.queue.append(entry)

    def surplus(self, protected):
        due, self.due = self.due, False
        return (self.answer or self.victim(protected)) if due else -1


@pytest.mark.parametrize("order", CHOICES["order"])
def test_hits_may_evict(order, monkeypatch):
    monkeypatch.setattr(find, "find_policy", lambda name: Restless())
    rows = [Row(0, i, i, DECODE, [wanted]) for i, wanted in enumerate(([0, 1], [2, 0], [1, 2], [0, 2], [0, 2]))]
    trace = trace_of(rows, Shape((3,), (2,), (5,)))
    result = remoe_sim.replay(trace, 3, policy="restless", order=order)["restless"]
    # 0 1 | 2 0* (1 goes) | 1 2* (0 goes) | 0 2* (1 goes) | 0* 2* in set order; one by one 0 lets 2 go, then 2 comes
    assert (result.misses, result.evictions) == ((5, 3) if order == "set" else (6, 4))
    assert result.peak_resident_bytes == (10 if order == "set" else 15)
    monkeypatch.setattr(Restless, "answer", 7)
    with pytest.raises(ValueError, match="chose a victim that is not resident"):
        remoe_sim.replay(trace, 3, policy="restless", order=order)
