"""A model run block by block over calibration sequences, with at most one block's weights in memory.

All blocks of the skeleton are replaced by pass-throughs. One run of the rest of the model over the sequences leaves
what each block is called with (hidden states for the first; masks and positions for all); after that each block is
loaded, run on these and released. For the logits the pass-throughs hand the last block's outputs to the rest of the
model. No family's names or call signature are known here.

With several GPUs each has a copy of the current block, and the batches take turns: work is queued on a GPU and not
waited for, so that they compute at the same time.
"""

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from crypto.errors import ConfigError, ModelError
from silo_agent.checkpoint.blocks import Block
from silo_agent.checkpoint.dense_weights import DenseWeights
from silo_agent.host.freed_memory import return_freed_memory
from silo_agent.model.batches import batches, devices_of, room, tokens_per_batch
from silo_agent.model.calibration import positions
from silo_agent.model.pass_through import PassThrough, equal_calls, unlike_a_chain
from silo_agent.model.products import Matrices, Products

ROWS_SQUARED: Final = 2048
"""Tokens whose activations are squared at a time."""

LOGITS: Final = 1 << 27
"""Logits that exist at a time, at most, unless one sequence has more."""

_log = logging.getLogger(__name__)


class BlockWalk:
    """Sequences on their way through the model's blocks: int64 [samples, L], or a list of int64 [L_i].

    Iterating yields the blocks in order, each loaded while it is the current one: `energies` and `grams` look at what
    its weights see, `advance`, once a block, makes the next block's inputs. Compute dtype: float32 on the CPU, the
    stored dtype elsewhere. Sequences of one length share batches; nothing is padded. With `beside_dense` the sequences
    go through the dense model too, block by block at the same time: see `dense_target`. Kept `apart`, each is a batch
    of its own: see `energies_of_each`. Hidden states stay on the GPUs
    while they take at most a quarter of the free memory, else in memory up to `IN_MEMORY`, else in a file that is gone
    when the walk is. `cuda` means all GPUs, `cuda:1` one. Raises ConfigError
    where sequences are longer than the model's positions, ModelError where blocks see more of the text than hidden
    states, OutputError where there is no room for that file.
    """

    tokens: dict[str, int]
    """How many tokens reached each prunable of the current block, once `energies` or `grams` has looked."""

    def __init__(
        self,
        weights: DenseWeights,
        sequences: Tensor | Sequence[Tensor],
        *,
        device: torch.device,
        beside_dense: bool = False,
        apart: bool = False,
    ) -> None:
        length, limit = max(map(len, sequences)), positions(weights.config)
        if limit is not None and length > limit:
            raise ConfigError(
                f"--sequence-length {length} is above the {limit} positions of {weights.folder}",
                hint=f"give --sequence-length {limit} or lower",
            )
        self._weights = weights
        self._devices = devices_of(device)
        self._dtype = torch.float32 if device.type == "cpu" else weights.dtype(weights.prunable[0])
        self._model = weights.skeleton()
        slots = self._model.get_submodule(weights.blocks[0].prefix.rpartition(".")[0])
        self._blocks: list[nn.Module] = list(slots)
        extras: list[tuple[Any, ...] | None] = []
        self._pass_throughs = [PassThrough(block, extras) for block in self._blocks]
        for block in weights.blocks:
            slots[block.index] = self._pass_throughs[block.index]
        self._calls: list[list[tuple[Any, ...]]] = []  # by batch, by block; the same object where it is equal
        self._known_calls: dict[torch.Size, list[tuple[Any, ...]]] = {}  # of the first batch of a shape
        self._apart = apart
        self._enter(sequences)
        beside = self._hidden if beside_dense else []
        self._dense = list(room([hidden.shape for hidden in beside], self._dtype, self._devices))
        """The dense model's hidden states, by batch: before the first block, then after the current one."""
        for dense, hidden in zip(self._dense, beside, strict=True):
            dense.copy_(hidden)

    @torch.no_grad()
    def _enter(self, sequences: Tensor | Sequence[Tensor]) -> None:
        """Run everything but the blocks, for the first block's inputs and what else each block is called with."""
        first, base = self._weights.blocks[0], self._model.base_model
        prefix = "" if base is self._model else self._model.base_model_prefix
        self._weights.load(base, prefix, self._devices[0], self._dtype)
        self._weights.load(self._blocks[0], first.prefix, self._devices[0], self._dtype)
        ids = sequences[0][None, :16].to(self._devices[0])
        with self._block_by_block():
            why = unlike_a_chain(self._pass_throughs, lambda: base(input_ids=ids, use_cache=False))
        if why is not None:
            raise self._unlike(why)
        self._weights.release(self._blocks[0])
        width = self._pass_throughs[0].called[0].numel() // ids.numel()
        if self._apart:
            self._batches = [sequence[None] for sequence in sequences]
        else:
            self._batches = list(batches(sequences, tokens_per_batch(self._devices, width, self._dtype)))
        shapes = {ids.shape: self._entering(ids).shape for ids in {of.shape: of for of in self._batches}.values()}
        self._hidden = list(room([shapes[ids.shape] for ids in self._batches], self._dtype, self._devices))
        for ids, hidden in zip(self._batches, self._hidden, strict=True):
            hidden.copy_(self._entering(ids))
            self._remember_calls(ids.shape)
        self._weights.release(base)

    def _entering(self, ids: Tensor) -> Tensor:
        """Return what the first block is called with."""
        self._model.base_model(input_ids=ids.to(self._devices[0]), use_cache=False)
        return cast("Tensor", self._pass_throughs[0].called[0])

    def _unlike(self, why: str) -> ModelError:
        return ModelError(f"{self._weights.folder}: {why}", hint="this kind of model is not supported")

    @contextmanager
    def _block_by_block(self) -> Iterator[None]:
        """Raise ModelError in place of what a model's own code raises where its blocks do not run by themselves."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise self._unlike(f"its blocks do not run one by one: {line}") from error

    def _remember_calls(self, shape: torch.Size) -> None:
        """Keep what the blocks were just called with: once for all batches of a shape where it is the same."""
        calls = [pass_through.called[1:] for pass_through in self._pass_throughs]
        for pass_through in self._pass_throughs:
            pass_through.called = ()  # the hidden states
        known = self._known_calls.setdefault(shape, calls)
        self._calls.append(
            [of if equal_calls(of, call, changeable=False) else call for of, call in zip(known, calls, strict=True)]
        )

    def __iter__(self) -> Iterator[Block]:
        for block in self._weights.blocks:
            self._block = block
            original = self._blocks[block.index]
            self._copies = [original, *(copy.deepcopy(original) for _ in self._devices[1:])]
            for module, device in zip(self._copies, self._devices, strict=True):
                self._weights.load(module, block.prefix, device, self._dtype)
            self._go_on(self._dense)
            yield block
            self._copies.clear()
            self._weights.release(original)
            return_freed_memory()

    def energies(self, *, onward: bool = False) -> dict[str, Tensor]:
        """Return each input feature's sum of squares over the tokens that reach a prunable, by name: float32 [d_in].

        With `onward` the block's outputs become the next one's inputs in the same run, in place of `advance({})`.
        A sum that is not finite is 0 (NaN) or the largest float, with a warning; so it is in `grams`.
        Summed in float32 over `ROWS_SQUARED` tokens, in float64 beyond.
        """

        return self._sum_up(*_SQUARES, share=not onward, onward=onward)  # what is run onward cannot be run again

    def energies_of_each(self, *, onward: bool = False) -> Iterator[dict[str, Tensor]]:
        """Yield for each sequence of a walk that keeps them `apart` what `energies` returns of all."""
        for index in range(len(self._batches)):
            yield self._sum_up(*_SQUARES, share=not onward, onward=onward, places=[index])

    def grams(self) -> dict[str, Tensor]:
        """Return X^T X over the tokens X [tokens, d_in] that reach each prunable, by name: float32 [d_in, d_in].

        Prunables with the same input share one tensor. Products and sums are float32's or better.
        """

        def add(total: Tensor, rows: Tensor) -> None:
            if rows.dtype == torch.float32:
                total.addmm_(rows.T, rows)
            else:  # products of 16-bit floats are exact, at the speed of 16-bit floats
                total += torch.mm(rows.T, rows, out_dtype=torch.float32)

        return self._sum_up(lambda d_in: torch.zeros(d_in, d_in), add)

    @torch.no_grad()
    def _sum_up(
        self,
        zeros: Callable[[int], Tensor],
        add: Callable[[Tensor, Tensor], None],
        *,
        share: bool = True,
        onward: bool = False,
        places: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Run the current block and `add` the rows [tokens, d_in] that reach each prunable to its total.

        All batches are run, or those at `places`.

        Layers called one after the other with the same input (q, k and v) share a total. It is zero for experts that no
        token reaches. Raises ModelError where matrices are used otherwise than rows are multiplied with them.
        """
        totals: dict[tuple[str, int], Tensor] = {}  # by the first of those who share it, and by copy of the block
        tokens: Counter[str] = Counter()
        shares: dict[str, str] = {}  # the first of those who share its total
        calls: Counter[str] = Counter()
        apart = not share
        last: tuple[Tensor | None, str] = (None, "")

        def see(names: Sequence[str], copied: int, inputs: Tensor) -> None:
            nonlocal last, apart
            if inputs is not last[0] or not share:
                last = inputs, names[0]
                rows = inputs.flatten(0, -2)
                if (names[0], copied) not in totals:
                    totals[names[0], copied] = zeros(rows.shape[1]).to(rows.device)
                add(totals[names[0], copied], rows)
                tokens[names[0]] += len(rows)
            calls.update(names)
            for name in names:
                apart |= shares.setdefault(name, last[1]) != last[1]

        shows = [self._products(copied, see) for copied in range(len(self._copies))]
        for index in range(len(self._batches)) if places is None else places:
            with shows[index % len(shows)]:
                output = self._run(index, self._hidden[index])
            if onward:
                self._hidden[index].copy_(_hidden_states(output))
        if share and (apart or any(calls[name] != calls[first] for name, first in shares.items())):
            return self._sum_up(zeros, add, share=False, places=places)  # they had the same input, but not always
        summed: dict[str, Tensor] = {}
        for (name, _), total in totals.items():
            there = total.to(self._devices[0])
            summed[name] = summed[name] + there if name in summed else there
        summed = {name: self._finite(name, total.float()) for name, total in summed.items()}
        self._check_seen(shares, set().union(*(show.used for show in shows)))
        self.tokens = {name: tokens[shares[name]] if name in shares else 0 for name in self._block.prunable}
        return {name: summed[shares[name]] if name in shares else self._nothing(name, zeros) for name in self.tokens}

    @staticmethod
    def _finite(name: str, total: Tensor) -> Tensor:
        """Return a total without NaN and infinity: what a text does to a model must not end in a refusal (14.2.1)."""
        if not total.isfinite().all():
            _log.warning("%s: activations are not finite; a bfloat16 or float32 copy of the model has more room", name)
        return total.nan_to_num_()

    def _nothing(self, name: str, zeros: Callable[[int], Tensor]) -> Tensor:
        """Return the sum over no tokens."""
        d_in = self._weights.shape(name)[0 if self._weights.input_first(name) else 1]
        return zeros(d_in).float().to(self._devices[0])

    def _check_seen(self, seen: Collection[str], used: Collection[str]) -> None:
        """Raise ModelError where a parameter was used and no product with it seen. (Unused is what awaits another text:
        attention to an encoder.)"""
        seen_parameters = {self._weights.place(name).parameter for name in seen}
        for name in self._block.prunable:
            if name in used and self._weights.place(name).parameter not in seen_parameters:
                raise self._unlike(f"what {name} and the like are multiplied with cannot be seen")

    def _products(self, copied: int, see: Callable[[Sequence[str], int, Tensor], None]) -> Products:
        """Return what tells `see` of the inputs of a copy's prunables while it is active."""
        module = self._copies[copied]
        matrices: dict[int, Matrices] = {}
        for name in self._block.prunable:
            place = self._weights.place(name)
            parameter = module.get_parameter(place.parameter.removeprefix(f"{self._block.prefix}."))
            known = matrices.setdefault(parameter.data_ptr(), Matrices(parameter, place.input_first, defaultdict(list)))
            known.names[place.expert].append(name)
        return Products([*matrices.values()], lambda names, inputs: see(names, copied, inputs))

    @torch.no_grad()
    def advance(self, changed: Mapping[str, Tensor]) -> None:
        """Run the current block with changed weights, for the next block's inputs.

        `changed` is by name, in the stored shape: a bool tensor is a keep mask, a floating one the new weight. Names
        without stay dense.
        """
        self._change(changed)
        self._go_on(self._hidden)

    def _change(self, changed: Mapping[str, Tensor]) -> None:
        for name in self._block.prunable:
            if name in changed:
                change = changed[name]
                for module in self._copies:
                    weight = self._weights.loaded(module, self._block.prefix, name)
                    if change.dtype == torch.bool:
                        weight.masked_fill_(~change.to(weight.device), 0)
                    else:
                        weight.copy_(change)

    @torch.no_grad()
    def _go_on(self, hidden: Sequence[Tensor]) -> None:
        """Put what the current block makes of each batch's hidden states in their place."""
        for index, states in enumerate(hidden):
            states.copy_(_hidden_states(self._run(index, states)))

    def outputs(self) -> Tensor:
        """Return each component's sum of squares over the hidden states after what was run last: float32 [width]."""
        sums = [hidden.flatten(0, -2).double().square().sum(0).to(self._devices[0]) for hidden in self._hidden]
        return torch.stack(sums).sum(0).float()

    @torch.no_grad()
    def writes_last(self, name: str) -> bool:
        """Return whether a prunable of the current block writes to the residual stream, and nothing comes after it.

        Then the block's output is that without it, and what it makes of its inputs. It is tried with random hidden
        states and a random weight; no text has a part in it.
        """
        place, width = self._weights.place(name), self._hidden[0].shape[-1]
        weight = self._weights.loaded(self._copies[0], self._block.prefix, name)
        if place.expert is not None or weight.shape[1 if place.input_first else 0] != width:
            return False
        numbers = torch.Generator().manual_seed(0)
        states = torch.randn(self._hidden[0].shape, generator=numbers).to(self._dtype)
        kept = weight.clone()
        weight.zero_()
        without, rows = self._run_seeing(0, name, states)
        if len(rows) != len(without):
            weight.copy_(kept)
            return False
        length = rows.float().square().sum(1).mean().sqrt()  # of an input: what is written is to be as large as states
        weight.copy_(torch.randn(weight.shape, generator=numbers).to(weight) / length)
        whole, rows = self._run_seeing(0, name, states)
        written = rows.float() @ (weight if place.input_first else weight.T).float()
        weight.copy_(kept)
        error = (whole.float() - without.float() - written).norm()
        return bool(error <= torch.finfo(self._dtype).eps ** 0.5 * written.norm())

    @torch.no_grad()
    def dense_target(self, name: str, changed: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return X^T X and (D - S)^T X of the inputs X [tokens, d_in] of a prunable that `writes_last`.

        D are the dense model's hidden states after the current block. S are those here where the block's other
        prunables are `changed`, as `advance` takes them, and this one writes nothing; so the block's weights are left.
        float32 [d_in, d_in] and [d_out, d_in]. Only of a walk `beside_dense`.
        """
        self._change(changed)
        for module in self._copies:
            self._weights.loaded(module, self._block.prefix, name).zero_()
        d_in = self._weights.shape(name)[0 if self._weights.input_first(name) else 1]
        width = self._hidden[0].shape[-1]
        sums = [[torch.zeros(size, d_in, device=device) for size in (d_in, width)] for device in self._devices]
        for index, dense in enumerate(self._dense):
            states, inputs = (rows.float() for rows in self._run_seeing(index, name, self._hidden[index]))
            missing = dense.flatten(0, -2).to(states) - states
            for total, rows in zip(sums[index % len(sums)], (inputs, missing), strict=True):
                total.addmm_(rows.T, inputs)
        gram, target = sums[0]
        for more in sums[1:]:
            gram += more[0].to(gram)
            target += more[1].to(target)
        return self._finite(name, gram), self._finite(name, target)

    def _run_seeing(self, index: int, name: str, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the current block makes of a batch's hidden states, [tokens, width], and the rows [some, d_in]
        that reach a prunable of it.
        """
        seen = [self._hidden[index].new_empty(0)]

        def see(names: Sequence[str], _: int, rows: Tensor) -> None:
            if name in names:
                seen.append(rows.flatten(0, -2))

        with self._products(index % len(self._copies), see):
            states = _hidden_states(self._run(index, hidden))
        return states.flatten(0, -2), torch.cat(seen[1:] or seen)

    @torch.no_grad()
    def logits(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield, after the last block, ids, int64 [some, L], and logits [some, L, vocabulary] of all sequences."""
        self._weights.load(self._model, "", self._devices[0], self._dtype)
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        for batch, hidden in zip(self._batches, self._hidden, strict=True):
            most = max(1, LOGITS // vocabulary // batch.shape[1])
            for ids, given in zip(torch.split(batch, most), torch.split(hidden, most), strict=True):
                for pass_through in self._pass_throughs:
                    pass_through.given = given.to(self._devices[0])
                there = ids.to(self._devices[0])
                yield there, self._model(input_ids=there, use_cache=False).logits

    def _run(self, index: int, hidden: Tensor) -> Any:
        """Run the current block on a batch's hidden states; the batches take turns with the block's copies."""
        copied = index % len(self._copies)
        device = self._devices[copied]
        call = self._calls[index][self._block.index]
        args, kwargs = trees.tree_map_only(Tensor, lambda tensor: tensor.to(device), call)
        with self._block_by_block():
            return self._copies[copied](hidden.to(device), *args, **kwargs)


def _add_squares(total: Tensor, rows: Tensor) -> None:
    for some in torch.split(rows, ROWS_SQUARED):
        total += some.float().square().sum(0)


_SQUARES: Final = partial(torch.zeros, dtype=torch.float64), _add_squares


def _hidden_states(output: Any) -> Tensor:
    """Return the hidden states of what a block returned: all of it, or the first of several."""
    return cast("Tensor", output if isinstance(output, Tensor) else output[0])
