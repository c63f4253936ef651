"""The shared memory of a specialised block, counted by hand; `test_gluon` holds it against the compiler."""

from __future__ import annotations

from dataclasses import replace

from napkin.schedule.forms.specialise import specialise
from napkin.schedule.roles.allocation import allocated_bytes
from napkin.schedule.roles.warps import Specialised
from tests.test_specialise import kernel_of

LONG = {"b": 1, "h": 16, "q": 16384, "x": 16384, "d": 128, "v": 128}
STATES = 8  # a byte for each warp of the partitions beside the first


def form_of(name: str, sizes: dict[str, int]) -> Specialised:
    form = specialise(kernel_of(name, sizes))
    assert not isinstance(form, str), form
    return form


def test_barriers_and_what_is_handed_over_lie_behind_the_rings() -> None:
    form = form_of("causal", LONG)
    assert form.shared_bytes == 224 * 1024
    # Four descriptors, three lengths and the groups, four handles of five dims, six of barriers.
    handed = 4 * 8 + 4 * 4 + 4 * (8 + 5 * 4) + 6 * (8 + 2 * 4)
    barriers = 2 * 8 * (4 + 2 + 2)
    assert allocated_bytes(form, LONG) == form.shared_bytes + handed + barriers + STATES


def test_a_length_of_one_is_not_handed_over() -> None:
    form = form_of("causal", LONG)
    # Barriers start at multiples of 16 bytes behind it.
    assert allocated_bytes(form, LONG | {"b": 4}) == allocated_bytes(form, LONG) + 16


def test_a_ring_that_another_one_leads_has_no_barriers_of_its_own() -> None:
    form = form_of("causal", LONG)
    *others, last = form.rings
    led = replace(form, rings=(*others, replace(last, leader=others[-1].name)))
    handles, barriers = 2 * (8 + 2 * 4), 2 * 8 * last.slots
    assert allocated_bytes(led, LONG) == allocated_bytes(form, LONG) - handles - barriers


def test_groups_that_are_handed_out_bring_their_place_and_its_barriers() -> None:
    form = replace(form_of("causal", LONG), dispatched=True)
    more = allocated_bytes(form, LONG) - allocated_bytes(replace(form, dispatched=False), LONG)
    handles = 3 * (8 + 2 * 4) + 8  # of the place and its barriers, and the counter's address
    assert more >= handles + 2 * 8
    assert more < handles + 2 * 8 + 80
