"""Prefetching on random traces, and its comparison with the twin."""

from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import assume

import remoe_sim
from remoe_sim.studies import prefetch
from remoe_sim.studies.predictors import PREDICTORS
from remoe_sim.studies.prefetch import PrefetchRun
from tests.oracle import naive_prefetch
from tests.oracle.naive import DECODE, PREFILL
from tests.oracle.naive_tiers import Spec
from tests.oracle.oracle import POLICIES
from tests.support.strategies import cases, choices, token_rows, trace_of, with_ahead


@st.composite
def situations(draw, predictors=tuple(PREDICTORS)):
    """A case, the twin's cache and training rows (or look-ahead), and the library's arguments."""
    case = draw(cases(preload=False, layers=3, large=False, most=20))
    shape, layers = case.shape, len(case.shape.top_k)
    arguments = draw(choices("scope", "admission", "phase", "warmup"))
    arguments |= {"reset": draw(st.sampled_from(("never", "never", "request"))), "depth": draw(st.integers(1, layers))}
    arguments |= {"predictor": draw(st.sampled_from(predictors)), "policy": draw(st.sampled_from(POLICIES))}
    arguments["guesses"] = draw(st.sampled_from((None, None, 0, 1, 3, 9)))
    per_layer, in_bytes = arguments["scope"] == "layer", shape.sizes is not None and draw(st.booleans())
    limit = draw(st.integers(0, 40 if in_bytes else 7) | st.integers(0, 16 * layers))
    most = limit // layers if in_bytes and per_layer else limit
    arguments["budget" if in_bytes else "cache"] = limit
    if shape.sizes is not None:
        arguments["cap"] = draw(st.none() | st.integers(0, 12))
    spec = Spec(
        arguments["policy"], [most] * (layers if per_layer else 1), shape.sizes if in_bytes else None, per_layer
    )
    training = None
    if arguments["predictor"] == "lookahead":
        arguments["depth"] = min(arguments["depth"], layers - 1)
        assume(arguments["depth"])
        case, ahead = draw(with_ahead(case, arguments["depth"]))
        depth = arguments["depth"]
        training = {layer + depth: said for (layer, distance), said in ahead.items() if distance == depth}
    if arguments["predictor"] == "noisy":
        arguments |= {"recall": draw(st.sampled_from((0, 0.4, 1))), "precision": draw(st.sampled_from((0.3, 0.8, 1)))}
        arguments["seed"] = draw(st.integers(0, 3))
    if arguments["predictor"] == "transition" or draw(st.integers(0, 3)) == 0:
        if arguments["predictor"] in ("transition", "frequent") and draw(st.booleans()):
            training = draw(token_rows(shape, 8))
            arguments["train"] = trace_of(training, shape)
        else:
            arguments["train_share"] = draw(st.sampled_from((0.3, 0.5, 0.8)))
    return case, spec, training, arguments


def counts_of(result, layer_numbers):
    """A result in the twin's words, both phases and all layers together where the library does not split both."""
    names = [name for name in naive_prefetch.NAMES if name != "by_prefetch"]

    def counts(one):
        return {name: getattr(one, name) for name in names} | {"by_prefetch": one.hits_by_prefetch}

    return {
        **{phase: counts(getattr(result, phase)) for phase in (PREFILL, DECODE)},
        "layers": [counts(result.layers[number]) for number in layer_numbers],
        "evictions": (result.evictions, result.evictions_by_prefetch),
    }


def summed(theirs):
    """The twin's answer: over layers, and over phases."""

    def add(some):
        return {name: sum(one[name] for one in some) for name in naive_prefetch.NAMES}

    return {
        **{phase: add(theirs[phase]) for phase in (PREFILL, DECODE)},
        "layers": [add(both) for both in zip(theirs[PREFILL], theirs[DECODE], strict=True)],
        "evictions": theirs["evictions"],
    }


def run(case, arguments):
    """The library's result, what was guessed and what was read for each group, or None where a cache cannot be emptied
    at each request, or there are too few steps to learn from a share of them."""
    guessed = {}

    def spy(name, known):
        made = guess(name, known)
        for target, begin, end in zip(made.targets, made.offsets, made.offsets[1:], strict=False):
            guessed[int(target)] = [entry_of(known, entry) for entry in made.entries[begin:end]]
        return made

    def watch(self, policy, guesses, *tables):
        missed, came, used = replay(self, policy, guesses, *tables)
        loads = zip(guesses.targets.tolist(), zip(came.tolist(), used.tolist(), strict=True), strict=True)
        reads[:] = missed.tolist(), {target: (some, right) for target, (some, right) in loads if some}
        return missed, came, used

    guess, replay, reads = prefetch.guess, PrefetchRun._replay, []
    try:
        with patch.object(prefetch, "guess", spy), patch.object(PrefetchRun, "_replay", watch):
            result = remoe_sim.prefetch(case.trace, **arguments)[0]
        return result, guessed, tuple(reads)
    except ValueError as error:
        phase = arguments["phase"]
        steps = len({row.step for row in case.rows if phase in ("all", row.phase)})
        few = "train share" in str(error) and steps > 0 and int(arguments["train_share"] * steps) == 0
        if not few and "cannot be emptied at each request" not in str(error):
            raise
        return None


def entry_of(known, entry):
    """(layer, expert) of an entry of all layers."""
    starts = known.stream.layer_starts
    layer = max(index for index, start in enumerate(starts) if start <= entry)
    return layer, int(entry - starts[layer])


def assert_prefetch(drawn):
    """Every count equals the twin's; whether there was anything to compare."""
    case, spec, training, arguments = drawn
    done = run(case, arguments)
    if done is not None:
        result, guessed, reads = done
        names = ("admission", "phase", "warmup", "reset", "cap", "train_share")
        theirs = naive_prefetch.prefetch(
            case.rows, spec, arguments["predictor"], arguments["depth"], case.shape.top_k, sizes=case.shape.sizes,
            most=arguments["guesses"], named=guessed,
            **{"ahead" if arguments["predictor"] == "lookahead" else "train": training},
            **{name: arguments[name] for name in names if name in arguments},
        )  # fmt: skip
        assert counts_of(result, case.trace.layer_numbers) == summed(theirs)
        assert reads == theirs["reads"]
        total = result.total
        assert total.named == total.resident + total.prefetched + total.cap_refused + total.room_refused
        assert total.hits == total.hits_resident + total.hits_by_prefetch
        if not arguments["warmup"]:
            assert total.prefetched == total.useful + total.wasted
            assert total.useful == total.hits_by_prefetch
    return done is not None
