from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Plan(_message.Message):
    __slots__ = ("protocol", "run", "suite", "backend", "roster", "threshold", "least_survivors", "colluders", "model", "pruning", "rounds", "chunk_words", "phase_seconds", "preparation_seconds", "two_honest_survivors", "files", "least_bytes_per_second")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SUITE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    LEAST_SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    COLLUDERS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRUNING_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_WORDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PREPARATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TWO_HONEST_SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    LEAST_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    run: bytes
    suite: str
    backend: str
    roster: _containers.RepeatedCompositeFieldContainer[Member]
    threshold: int
    least_survivors: int
    colluders: int
    model: _containers.RepeatedCompositeFieldContainer[Tensor]
    pruning: Pruning
    rounds: _containers.RepeatedCompositeFieldContainer[Round]
    chunk_words: int
    phase_seconds: int
    preparation_seconds: int
    two_honest_survivors: bool
    files: _containers.RepeatedCompositeFieldContainer[File]
    least_bytes_per_second: int
    def __init__(self, protocol: _Optional[str] = ..., run: _Optional[bytes] = ..., suite: _Optional[str] = ..., backend: _Optional[str] = ..., roster: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., threshold: _Optional[int] = ..., least_survivors: _Optional[int] = ..., colluders: _Optional[int] = ..., model: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., pruning: _Optional[_Union[Pruning, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[Round, _Mapping]]] = ..., chunk_words: _Optional[int] = ..., phase_seconds: _Optional[int] = ..., preparation_seconds: _Optional[int] = ..., two_honest_survivors: _Optional[bool] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., least_bytes_per_second: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("silo", "signing_key", "sparsity_ratio", "capacity")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_RATIO_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    silo: str
    signing_key: bytes
    sparsity_ratio: str
    capacity: int
    def __init__(self, silo: _Optional[str] = ..., signing_key: _Optional[bytes] = ..., sparsity_ratio: _Optional[str] = ..., capacity: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "digest", "shape", "prunable", "block", "input_first", "shares_input_of", "scale_exponents", "output_exponents")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PRUNABLE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIRST_FIELD_NUMBER: _ClassVar[int]
    SHARES_INPUT_OF_FIELD_NUMBER: _ClassVar[int]
    SCALE_EXPONENTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_EXPONENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    shape: _containers.RepeatedScalarFieldContainer[int]
    prunable: bool
    block: int
    input_first: bool
    shares_input_of: str
    scale_exponents: bytes
    output_exponents: bytes
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ..., shape: _Optional[_Iterable[int]] = ..., prunable: _Optional[bool] = ..., block: _Optional[int] = ..., input_first: _Optional[bool] = ..., shares_input_of: _Optional[str] = ..., scale_exponents: _Optional[bytes] = ..., output_exponents: _Optional[bytes] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Pruning(_message.Message):
    __slots__ = ("pruner", "sparsity_ratio", "comparison_group", "samples", "sequence_length", "pattern", "allocation", "schedule", "weight_scaling", "force_comparison_group", "cohort_floor", "block_alphas", "quantise_bits", "epsilon", "delta", "clip", "vote_units", "gram_inputs")
    PRUNER_FIELD_NUMBER: _ClassVar[int]
    SPARSITY_RATIO_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_GROUP_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    ALLOCATION_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_SCALING_FIELD_NUMBER: _ClassVar[int]
    FORCE_COMPARISON_GROUP_FIELD_NUMBER: _ClassVar[int]
    COHORT_FLOOR_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ALPHAS_FIELD_NUMBER: _ClassVar[int]
    QUANTISE_BITS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    VOTE_UNITS_FIELD_NUMBER: _ClassVar[int]
    GRAM_INPUTS_FIELD_NUMBER: _ClassVar[int]
    pruner: str
    sparsity_ratio: str
    comparison_group: str
    samples: int
    sequence_length: int
    pattern: str
    allocation: str
    schedule: str
    weight_scaling: bool
    force_comparison_group: bool
    cohort_floor: int
    block_alphas: _containers.RepeatedScalarFieldContainer[str]
    quantise_bits: int
    epsilon: float
    delta: float
    clip: int
    vote_units: int
    gram_inputs: str
    def __init__(self, pruner: _Optional[str] = ..., sparsity_ratio: _Optional[str] = ..., comparison_group: _Optional[str] = ..., samples: _Optional[int] = ..., sequence_length: _Optional[int] = ..., pattern: _Optional[str] = ..., allocation: _Optional[str] = ..., schedule: _Optional[str] = ..., weight_scaling: _Optional[bool] = ..., force_comparison_group: _Optional[bool] = ..., cohort_floor: _Optional[int] = ..., block_alphas: _Optional[_Iterable[str]] = ..., quantise_bits: _Optional[int] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., clip: _Optional[int] = ..., vote_units: _Optional[int] = ..., gram_inputs: _Optional[str] = ...) -> None: ...

class Round(_message.Message):
    __slots__ = ("votes", "evaluation", "weights", "scales", "outliers", "sampling", "energies", "gram", "dense_target", "block")
    VOTES_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    OUTLIERS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    ENERGIES_FIELD_NUMBER: _ClassVar[int]
    GRAM_FIELD_NUMBER: _ClassVar[int]
    DENSE_TARGET_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    votes: Votes
    evaluation: Evaluation
    weights: Weights
    scales: Scales
    outliers: Outliers
    sampling: Sampling
    energies: Energies
    gram: Gram
    dense_target: DenseTarget
    block: int
    def __init__(self, votes: _Optional[_Union[Votes, _Mapping]] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., weights: _Optional[_Union[Weights, _Mapping]] = ..., scales: _Optional[_Union[Scales, _Mapping]] = ..., outliers: _Optional[_Union[Outliers, _Mapping]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., energies: _Optional[_Union[Energies, _Mapping]] = ..., gram: _Optional[_Union[Gram, _Mapping]] = ..., dense_target: _Optional[_Union[DenseTarget, _Mapping]] = ..., block: _Optional[int] = ...) -> None: ...

class Votes(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Weights(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Scales(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Outliers(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sampling(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Energies(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Gram(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DenseTarget(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("sequences", "candidates")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    sequences: int
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    def __init__(self, sequences: _Optional[int] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("name", "dense", "digest", "pruned", "own", "self_calibrated")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PRUNED_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    SELF_CALIBRATED_FIELD_NUMBER: _ClassVar[int]
    name: str
    dense: bool
    digest: bytes
    pruned: bool
    own: bool
    self_calibrated: bool
    def __init__(self, name: _Optional[str] = ..., dense: _Optional[bool] = ..., digest: _Optional[bytes] = ..., pruned: _Optional[bool] = ..., own: _Optional[bool] = ..., self_calibrated: _Optional[bool] = ...) -> None: ...
