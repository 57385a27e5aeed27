"""Tiers of random traces, and their comparison with the twin."""

import hypothesis.strategies as st
import numpy as np
from click.testing import CliRunner

import remoe_sim
from remoe_sim import cli
from remoe_sim.policy import Policy, SlotPolicy
from remoe_sim.policy.drive import check_drivable
from remoe_sim.studies.tiers import RELATIONS
from remoe_sim.util.plugins import plugins
from tests.oracle import naive_tiers
from tests.oracle.naive import DECODE, PREFILL, Row
from tests.oracle.oracle import POLICIES
from tests.support.strategies import Shape, cases, choices, trace_of

BOTH_SCOPES = ("layer", "global")


@st.composite
def hierarchies(draw):
    """A case, the twin's tiers and the library's arguments; limits in the same unit let the host be a little larger."""
    case = draw(cases(preload=False, layers=2, large=False, most=20))
    arguments = draw(choices("scope", "admission", "order", "phase", "warmup"))
    arguments |= {"reset": draw(st.sampled_from(("never", "never", "request")))}
    arguments |= {"host_scope": draw(st.sampled_from(BOTH_SCOPES)), "relation": draw(st.sampled_from(RELATIONS))}
    shape, layers, specs = case.shape, len(case.shape.top_k), []
    per_layer = arguments["scope"] == "layer", arguments["host_scope"] == "layer"
    in_bytes = [shape.sizes is not None and draw(st.booleans()) for _ in per_layer]
    device = draw(st.integers(0, 24 if in_bytes[0] else 5))
    host = draw(st.integers(0, 40 if in_bytes[1] else 9))
    if draw(st.booleans()):
        host += device * (1 if per_layer[0] == per_layer[1] or in_bytes[0] else layers)
    for number, limit in enumerate((device, draw(st.sampled_from((host,) * 5 + ("all",))))):
        tier, unit = ("device", "host")[number], "budget" if in_bytes[number] and limit != "all" else "cache"
        most = 99 if limit == "all" else limit // layers if unit == "budget" and per_layer[number] else limit
        spec = naive_tiers.Spec(
            draw(st.sampled_from(POLICIES)), [most] * (layers if per_layer[number] else 1),
            shape.sizes if unit == "budget" else None, per_layer[number],
        )  # fmt: skip
        specs.append(spec)
        arguments |= {f"{tier}_{unit}": limit, f"{tier}_policy": spec.policy}
    return case, specs, arguments


def counts_of(result):
    """A result in the twin's words."""
    answer = {"evictions": (result.device.evictions, result.host.evictions)}
    for phase in (PREFILL, DECODE):
        one = getattr(result, phase)
        answer[phase] = {
            "lookups": one.device_lookups, "device_hits": one.device_hits, "host_hits": one.host_hits,
            "to_host": one.storage_to_host_bytes or 0, "to_device": one.host_to_device_bytes or 0,
            "down": one.device_to_host_bytes or 0,
        }  # fmt: skip
    return answer


def run(case, arguments):
    """The library's result, or None where it says that this is not possible."""
    try:
        return remoe_sim.tiers(case.trace, **arguments)[0]
    except ValueError as error:
        if not any(why in str(error) for why in ("cannot be emptied at each request", "an inclusive host needs room")):
            raise
        return None


def assert_tiers(drawn):
    """Every count equals the twin's; whether there was anything to compare."""
    case, specs, arguments = drawn
    result = run(case, arguments)
    if result is not None:
        grouping = {name: arguments[name] for name in ("order", "reset", "phase", "warmup", "admission")}
        relation = arguments["relation"]
        theirs = naive_tiers.tiers(case.rows, *specs, relation, sizes=case.shape.sizes, **grouping)
        assert counts_of(result) == theirs
    return result is not None


class Oldest(SlotPolicy):
    """LRU in plain Python."""

    name = label = "oldest"

    def setup(self, limit, sizes):
        self.order = []

    def hit(self, entry):
        self.order.remove(entry)
        self.order.append(entry)

    def victim(self, protected):
        for entry in self.order:
            if not protected[entry]:
                self.order.remove(entry)
                return entry
        return -1

    def insert(self, entry):
        self.order.append(entry)


def random_trace(layers=3, tokens=60, seed=5):
    chance = np.random.default_rng(seed)
    rows = [
        Row(0, i, i, DECODE if i else PREFILL, [list(map(int, chance.permutation(9)[:2])) for _ in range(layers)])
        for i in range(tokens)
    ]
    return trace_of(rows, Shape((9,) * layers, (2,) * layers, tuple(range(3, 3 + layers))))


def drivable():
    """Names and admissions of all policies but those with a replay of their own."""
    for name, policy in plugins("remoe_sim.policies", Policy).items():
        try:
            check_drivable(policy(), "a test")
        except ValueError:
            continue
        yield from ((name, admission) for admission in policy.admissions)


def printed(*arguments):
    """What a command writes to stdout, 80 columns wide."""
    done = CliRunner().invoke(cli.main, list(map(str, arguments)), env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.stdout
