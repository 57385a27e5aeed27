"""The page cache's kernels against slow twins that hold every piece in a list."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoe_sim.kernels.page_cache import lru_faults, two_list_faults


def naive_lru(entries: list[int], pieces: list[int], room: int) -> list[int]:
    cache: list[tuple[int, int]] = []
    found = []
    for part in entries:
        missing = 0
        for piece in range(pieces[part]):
            if (part, piece) in cache:
                cache.remove((part, piece))
            else:
                missing += 1
            cache.append((part, piece))
            cache = cache[max(0, len(cache) - room) :]
        found.append(missing)
    return found


def naive_two_list(entries: list[int], pieces: list[int], room: int, most_active: int) -> list[int]:
    inactive: list[tuple[int, int]] = []
    active: list[tuple[int, int]] = []
    found = []
    for part in entries:
        missing = 0
        for piece in range(pieces[part]):
            one = (part, piece)
            if one not in inactive and one not in active:
                missing += 1
                if room:
                    if len(inactive) + len(active) == room:
                        (inactive or active).pop(0)
                    inactive.append(one)
                continue
            (inactive if one in inactive else active).remove(one)
            active.append(one)
            if len(active) > most_active:
                inactive.append(active.pop(0))
        found.append(missing)
    return found


PARTS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    pieces = draw(PARTS)
    entries = draw(st.lists(st.integers(0, len(pieces) - 1), max_size=40))
    return entries, pieces, draw(st.integers(0, sum(pieces) + 2))


def counted(entries: list[int], pieces: list[int], room: int, most_active: int | None = None) -> list[int]:
    given = np.array(entries, np.int32), np.array(pieces, np.int64), room
    faults = np.zeros(len(entries), np.int64)
    if most_active is None:
        lru_faults(*given, faults)
    else:
        two_list_faults(*given, most_active, faults)
    return faults.tolist()


@given(runs())
def test_least_recently_used_faults_as_its_twin_does(run: tuple[list[int], list[int], int]) -> None:
    assert counted(*run) == naive_lru(*run)


@given(runs(), st.integers(0, 20))
def test_two_lists_fault_as_their_twin_does(run: tuple[list[int], list[int], int], most_active: int) -> None:
    assert counted(*run, most_active) == naive_two_list(*run, most_active)


@given(runs())
def test_more_room_never_faults_more(run: tuple[list[int], list[int], int]) -> None:
    entries, pieces, room = run
    assert sum(counted(entries, pieces, room + 1)) <= sum(counted(entries, pieces, room))


@pytest.mark.parametrize("most_active", [None, 0, 9, 12])
def test_with_room_for_all_only_first_uses_fault(most_active: int | None) -> None:
    assert counted([0, 1, 0, 1, 2], [3, 4, 5], 12, most_active) == [3, 4, 0, 0, 5]


def test_two_lists_keep_what_was_used_twice_through_a_scan() -> None:
    run = [0, 0, 1, 2, 3] * 5
    assert sum(counted(run, [4, 4, 4, 4], 11)) == 16 * 5
    assert sum(counted(run, [4, 4, 4, 4], 11, 8)) < 16 * 5
