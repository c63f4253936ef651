"""A diagram as an attention implementation of Hugging Face transformers.

In: a name and a diagram. Out: models that are loaded or configured with `attn_implementation=name` compute
their attention by the diagram, in training and in generation.

The diagram's first three arguments are queries, keys and values; the others are found by name: `scale`,
`cap`, `width` and `start` as a model says them (see `register`), any other name as an attribute of the
model's attention module, such as a learned parameter. The diagram states its own mask, so what a model asks
for and the diagram does not say is refused: nothing is computed with another mask in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

import napkin
from napkin.api import Diagram
from napkin.diagram import Argument
from napkin.language.errors import Diagnostic, NapkinError

_UNBOUNDED = 2**30  # a window that no sequence fills


def register(name: str, diagram: str | Path | Diagram, *, machine: str | None = None) -> None:
    """Make `attn_implementation=name` mean a diagram.

    Queries are `[b h q d]`, or `[b (k g) q d]` with keys and values `[b k x d]`, `[b k x v]`; heads of keys
    are repeated for a diagram that has as many of them as of queries. Queries end where keys do: a causal
    diagram says `x <= q + size(x) - size(q)`, so that it also serves a cache.

    Arguments by name: `scale: float` is the model's factor of the scores (without it the diagram divides
    them by the root of `size(d)`, and the model must too), `cap: float` its softcap, `width: int` its sliding
    window (beyond every length in layers without one), `start[b]: int32` the positions that pad each sequence
    on the left. NapkinError (N620) where a model has what the diagram does not take, when it runs.
    """
    loaded = diagram if isinstance(diagram, Diagram) else napkin.load(diagram)
    adapter = _Adapter(loaded, napkin.compile(loaded, machine=machine))
    AttentionInterface.register(name, adapter.attend)
    AttentionMaskInterface.register(name, adapter.mask)


@dataclass(frozen=True, slots=True)
class _Adapter:
    diagram: Diagram
    kernel: Callable[..., Any]

    # --- attention --------------------------------------------------------------------------------

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        dropout: float = 0.0,
        scaling: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return the heads' outputs `[b q h v]` as transformers takes them, and no weights."""
        if dropout:
            raise self._refusal(f"the model drops {dropout} of the weights", "set it to 0")
        if attention_mask is not None and attention_mask.ndim != 1:
            raise self._refusal(
                "the model gives a mask of its own", "state the mask in the diagram"
            )
        padding = attention_mask
        if padding is None:
            padding = torch.zeros(query.shape[0], dtype=torch.int32, device=query.device)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        given = {
            "scale": scale,
            "cap": softcap,
            "width": sliding_window or _UNBOUNDED,
            "start": padding,
        }
        self._refuse_what_is_left(query, scale, softcap, sliding_window, attention_mask)
        key, value = self._repeated(query, key), self._repeated(query, value)
        others = [self._found(each, given, module) for each in self._others()]
        output: torch.Tensor = self.kernel(query, key, value, *others)
        return output.transpose(1, 2).contiguous(), None

    def _others(self) -> tuple[Argument, ...]:
        return self.diagram.core.arguments[3:]

    def _takes(self, name: str) -> bool:
        return any(each.name == name for each in self._others())

    def _refuse_what_is_left(
        self,
        query: torch.Tensor,
        scale: float,
        softcap: float | None,
        window: int | None,
        padding: torch.Tensor | None,
    ) -> None:
        """Refuse what the model asks for and the diagram does not take."""
        usual = query.shape[-1] ** -0.5
        if not self._takes("scale") and abs(scale - usual) > 1e-6 * usual:
            message = f"the model scales its scores by {scale:.6g}, not by 1 / sqrt(size(d))"
            raise self._refusal(message, "give the diagram an argument `scale: float`")
        if softcap is not None and not self._takes("cap"):
            message = f"the model caps its scores at {softcap}"
            raise self._refusal(message, "give the diagram an argument `cap: float`")
        if window is not None and not self._takes("width"):
            message = f"the model sees a window of {window} positions"
            raise self._refusal(message, "give the diagram an argument `width: int`")
        if padding is not None and not self._takes("start"):
            message = "sequences are padded on the left"
            raise self._refusal(message, "give the diagram an argument `start[b]: int32`")

    def _repeated(self, query: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
        """Return keys or values with a head for each of the queries', unless the diagram shares them."""
        shares = len(self.diagram.core.arguments[0].dims[1]) > 1
        times = query.shape[1] // heads.shape[1]
        return heads if shares or times == 1 else heads.repeat_interleave(times, dim=1)

    def _found(self, argument: Argument, given: dict[str, Any], module: torch.nn.Module) -> Any:
        value = given.get(argument.name)
        if value is None:
            value = getattr(module, argument.name, None)
        if value is None:
            message = f"neither the model nor its {type(module).__name__} has `{argument.name}`"
            raise self._refusal(message, f"set `{argument.name}` on the module")
        return value

    # --- masks ------------------------------------------------------------------------------------

    def mask(
        self,
        batch_size: int,
        q_length: int,
        kv_length: int,
        q_offset: int = 0,
        kv_offset: int = 0,
        mask_function: Callable[..., torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        local_size: int | None = None,
        device: torch.device | str = "cpu",
        **_: Any,
    ) -> torch.Tensor | None:
        """Return the positions that pad each sequence on the left, None where none does."""
        if int(q_offset) + q_length != int(kv_offset) + kv_length:
            message = "the last query is not at the last key, as in a cache of fixed length"
            raise self._refusal(message, "use the model's default cache")
        if mask_function is not None:
            first = int(q_offset)
            self._check(
                mask_function, batch_size, range(first, first + q_length), local_size, device
            )
        if attention_mask is None:
            return None
        return self._padding(attention_mask[:, -kv_length:], q_length)

    def _check(
        self,
        mask_function: Callable[..., torch.Tensor],
        batch: int,
        rows: range,
        window: int | None,
        device: torch.device | str,
    ) -> None:
        """Hold a model's mask against a causal one with its window, where the two can differ first."""
        q = torch.arange(rows.start, rows.stop, device=device).repeat(batch)
        sequence = torch.arange(batch, device=device).repeat_interleave(len(rows))
        width = window or _UNBOUNDED
        for distance in {-1, 0, 1, width - 1, width}:
            x = (q - distance).clamp(min=0)
            seen = mask_function(sequence, torch.zeros_like(q), q, x)
            wanted = (x <= q) & (q - x < width)
            if not bool((seen == wanted).all()):
                message = "the model's mask is more than causal with a window"
                raise self._refusal(message, "state all of it in a diagram of its own")

    def _padding(self, real: torch.Tensor, queries: int) -> torch.Tensor | None:
        """Return how much each sequence is padded on the left.

        On the right, what a padded position computes is read by no other: causal queries do not see it.
        """
        real = real.bool()
        start = real.int().argmax(1)
        places = torch.arange(real.shape[1], device=real.device)
        inside = (places >= start[:, None]) & (places < (start + real.sum(1))[:, None])
        if not bool((inside == real).all()):
            raise self._refusal("a sequence is padded in its middle", "pad on the left")
        if queries < real.shape[1] and not bool(real[:, -1].all()):
            raise self._refusal("a cached sequence is padded on the right", "pad on the left")
        return start.int() if bool(start.any()) else None

    def _refusal(self, message: str, help_line: str) -> NapkinError:
        note = f"the diagram is `{self.diagram.name}`"
        return NapkinError([Diagnostic("N620", message, notes=(note,), help=help_line)])
