"""What the warps of a specialised kernel do: rings, stores through shared memory, a consumer's steps.

The value between `specialise`, which makes it, and the emitters, which print it. It decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from napkin.schedule.program import Load, Loop, Operation, Program, Store, Tile
from napkin.schedule.roles.barriers import Slot, Step


@dataclass(frozen=True, slots=True)
class Ring:
    """Slots of shared memory that the producer fills and consumers empty, a full and an empty barrier each.

    The slots are filled in turn: one a chunk; or, if `resident`, one a group, and with `by_rows` one for the
    rows of every consumer. A resident ring of more slots than a group fills is filled for the next one
    early. `arrivals` are the consumers that empty a slot. Contractions read matrices from their slots;
    values of a chunk's positions (`is_vector`) are read into registers. The slots of a ring with a `leader`
    are filled and emptied together with those of that one, whose barriers say so.
    """

    name: str
    load: Load
    slots: int
    slot_bytes: int
    arrivals: int
    resident: bool
    by_rows: bool
    leader: str | None = None

    @property
    def is_vector(self) -> bool:
        """Whether consumers read a slot into registers."""
        return self.load.tile.level == "register"


@dataclass(frozen=True, slots=True)
class Staged:
    """A store through shared memory: in a resident ring's slot that is read no more, or in its own."""

    store: Store
    ring: str | None
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """What parts of sums multiply, as consumers share it, rounded; and the outputs that they are added to.

    With a slot a stage a chunk's lies beside that of the chunk before, which others may still read.
    """

    tile: Tile
    arrays: tuple[str, ...]
    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class Adder:
    """A warpgroup that contracts parts of sums and adds them: its registers a thread, its steps of a chunk.

    Its slots are those of what consumers share, by the tile's name: all of them fill one, it empties it.
    """

    registers: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """The first columns of a resident tile, which every consumer keeps in registers for a whole group."""

    tile: str
    columns: int


@dataclass(frozen=True, slots=True)
class Chunks:
    """A loop over chunks, or one chunk alone, with a consumer's steps.

    `wholes` gives, for every tile that steps make of a slice of the chunk, the tile of the whole chunk.
    """

    loop: Loop
    steps: tuple[Step, ...]
    is_single: bool
    wholes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Nest:
    """A loop inside a stream's step: what a consumer does for its first chunk, for others, and behind."""

    loop: Loop
    first: tuple[Step, ...]
    steps: tuple[Step, ...]
    behind: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Specialised:
    """A warp-specialised kernel. Every block walks groups, `grid` giving their order: in turn, or
    `dispatched` to the blocks as they get done.

    `place` is done by all warps for every group. The producer fills the resident rings, and the others
    once a chunk, in order. A consumer does `prelude`, `chunks`, `drain`, and lets chunks `behind` pass.
    `slots` gives the slot of every shared tile by name, `cuts` the dim that a dim of slices is cut from. With
    `tests_apart` a mask is tested a comparison at a time. With `nests` every step of `chunks` has a loop,
    which fills the rings. With an `adder` consumers contract no parts.
    """

    program: Program
    rows: str
    consumers: int
    rings: tuple[Ring, ...]
    staged: tuple[Staged, ...]
    slots: tuple[tuple[str, Slot], ...]
    place: tuple[Operation, ...]
    prelude: tuple[Step, ...]
    chunks: tuple[Chunks, ...]
    drain: tuple[Step, ...]
    registers: tuple[int, int]
    parts: tuple[Part, ...] = ()
    dispatched: bool = False
    held: tuple[Held, ...] = ()
    tests_apart: bool = False
    cuts: tuple[tuple[str, str], ...] = ()
    nests: tuple[Nest, ...] = ()
    behind: tuple[Chunks, ...] = ()
    adder: Adder | None = None

    @property
    def shared_bytes(self) -> int:
        """The shared memory of a block, without barriers."""
        rings = sum(ring.slots * ring.slot_bytes for ring in self.rings)
        own = sum(each.slot_bytes for each in self.staged if each.ring is None)
        return (
            rings + self.consumers * own + sum(each.slots * each.slot_bytes for each in self.parts)
        )

    @property
    def warps(self) -> int:
        """The warps of a block; those that the producer's warpgroup leaves idle are counted."""
        return 4 * (self.consumers + 1 + (self.adder is not None))

    @property
    def stages(self) -> int:
        """The slots of a ring that is filled every chunk."""
        return max(ring.slots for ring in self.rings if not ring.resident)
