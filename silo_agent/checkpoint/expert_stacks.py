"""Stored tensors that hold all experts' matrices of a kind, one behind the other: each matrix counts as a tensor.

So every pruner, release kind and plan knows matrices alone. Only who writes files puts them together again.
"""

from collections.abc import Iterable, Iterator, Mapping

from silo_agent.checkpoint.tensor_files import StoredTensor


def expert_stacks(
    parameters: Iterable[str], stored_as: Mapping[str, tuple[str, ...]], stored: Mapping[str, StoredTensor]
) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Yield each stored tensor [experts, rows, columns] that holds one of `parameters`, and its matrices by name.

    The name is the stored one, a dot and the expert's number. `stored_as` is what `stored_parameters` returned.
    """
    for parameter in parameters:
        name, *more = stored_as[parameter]
        whole = stored[name]
        if not more and len(whole.shape) == 3:
            size = whole.size // whole.shape[0]
            yield (
                name,
                {
                    f"{name}.{expert}": StoredTensor(
                        whole.file, whole.dtype, whole.shape[1:], whole.start + expert * size
                    )
                    for expert in range(whole.shape[0])
                },
            )
