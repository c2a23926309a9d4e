from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NextRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Offer(_message.Message):
    __slots__ = ("round", "over")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    round: RoundOffer
    over: Over
    def __init__(self, round: _Optional[_Union[RoundOffer, _Mapping]] = ..., over: _Optional[_Union[Over, _Mapping]] = ...) -> None: ...

class RoundOffer(_message.Message):
    __slots__ = ("plan", "index", "input", "cohort")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    index: int
    input: bytes
    cohort: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plan: _Optional[bytes] = ..., index: _Optional[int] = ..., input: _Optional[bytes] = ..., cohort: _Optional[_Iterable[str]] = ...) -> None: ...

class Over(_message.Message):
    __slots__ = ("failure",)
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    failure: str
    def __init__(self, failure: _Optional[str] = ...) -> None: ...

class DeclineRequest(_message.Message):
    __slots__ = ("round", "reason")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    reason: str
    def __init__(self, round: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class DeclineReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("round", "signature")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    signature: bytes
    def __init__(self, round: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class WithdrawReply(_message.Message):
    __slots__ = ("signatures",)
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[SiloSignature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[SiloSignature, _Mapping]]] = ...) -> None: ...

class SiloMessage(_message.Message):
    __slots__ = ("round", "acceptance", "pair_seeds", "shares", "upload_root", "survivors_signature", "revealed_shares", "opening_signature", "coin", "verdict")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    PAIR_SEEDS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ROOT_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    REVEALED_SHARES_FIELD_NUMBER: _ClassVar[int]
    OPENING_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    COIN_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    acceptance: Acceptance
    pair_seeds: PairSeeds
    shares: Shares
    upload_root: UploadRoot
    survivors_signature: SurvivorsSignature
    revealed_shares: RevealedShares
    opening_signature: OpeningSignature
    coin: Coin
    verdict: Verdict
    def __init__(self, round: _Optional[bytes] = ..., acceptance: _Optional[_Union[Acceptance, _Mapping]] = ..., pair_seeds: _Optional[_Union[PairSeeds, _Mapping]] = ..., shares: _Optional[_Union[Shares, _Mapping]] = ..., upload_root: _Optional[_Union[UploadRoot, _Mapping]] = ..., survivors_signature: _Optional[_Union[SurvivorsSignature, _Mapping]] = ..., revealed_shares: _Optional[_Union[RevealedShares, _Mapping]] = ..., opening_signature: _Optional[_Union[OpeningSignature, _Mapping]] = ..., coin: _Optional[_Union[Coin, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ...) -> None: ...

class AggregatorMessage(_message.Message):
    __slots__ = ("round", "participants", "pair_seed_delivery", "share_delivery", "survivors", "survivors_signatures", "opening", "aborted", "opening_signatures", "coins", "verdicts")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    PAIR_SEED_DELIVERY_FIELD_NUMBER: _ClassVar[int]
    SHARE_DELIVERY_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    ABORTED_FIELD_NUMBER: _ClassVar[int]
    OPENING_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    round: bytes
    participants: Participants
    pair_seed_delivery: PairSeedDelivery
    share_delivery: ShareDelivery
    survivors: Survivors
    survivors_signatures: SurvivorsSignatures
    opening: Opening
    aborted: Aborted
    opening_signatures: OpeningSignatures
    coins: Coins
    verdicts: Verdicts
    def __init__(self, round: _Optional[bytes] = ..., participants: _Optional[_Union[Participants, _Mapping]] = ..., pair_seed_delivery: _Optional[_Union[PairSeedDelivery, _Mapping]] = ..., share_delivery: _Optional[_Union[ShareDelivery, _Mapping]] = ..., survivors: _Optional[_Union[Survivors, _Mapping]] = ..., survivors_signatures: _Optional[_Union[SurvivorsSignatures, _Mapping]] = ..., opening: _Optional[_Union[Opening, _Mapping]] = ..., aborted: _Optional[_Union[Aborted, _Mapping]] = ..., opening_signatures: _Optional[_Union[OpeningSignatures, _Mapping]] = ..., coins: _Optional[_Union[Coins, _Mapping]] = ..., verdicts: _Optional[_Union[Verdicts, _Mapping]] = ...) -> None: ...

class Acceptance(_message.Message):
    __slots__ = ("sealing_key", "coin_commitment", "signature")
    SEALING_KEY_FIELD_NUMBER: _ClassVar[int]
    COIN_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    sealing_key: bytes
    coin_commitment: bytes
    signature: bytes
    def __init__(self, sealing_key: _Optional[bytes] = ..., coin_commitment: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Participants(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[SignedKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[SignedKey, _Mapping]]] = ...) -> None: ...

class SignedKey(_message.Message):
    __slots__ = ("silo", "sealing_key", "coin_commitment", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SEALING_KEY_FIELD_NUMBER: _ClassVar[int]
    COIN_COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    sealing_key: bytes
    coin_commitment: bytes
    signature: bytes
    def __init__(self, silo: _Optional[str] = ..., sealing_key: _Optional[bytes] = ..., coin_commitment: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class PairSeeds(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: _containers.RepeatedCompositeFieldContainer[Sealed]
    def __init__(self, sealed: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ...) -> None: ...

class PairSeedDelivery(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: _containers.RepeatedCompositeFieldContainer[Sealed]
    def __init__(self, sealed: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("silo", "sealed")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    silo: str
    sealed: bytes
    def __init__(self, silo: _Optional[str] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class Shares(_message.Message):
    __slots__ = ("sealed", "bundle")
    SEALED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    sealed: _containers.RepeatedCompositeFieldContainer[Sealed]
    bundle: bytes
    def __init__(self, sealed: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ..., bundle: _Optional[bytes] = ...) -> None: ...

class ShareDelivery(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: _containers.RepeatedCompositeFieldContainer[Sealed]
    def __init__(self, sealed: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ...) -> None: ...

class UploadRoot(_message.Message):
    __slots__ = ("root", "signature")
    ROOT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    root: bytes
    signature: bytes
    def __init__(self, root: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("roots",)
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    roots: _containers.RepeatedCompositeFieldContainer[SignedRoot]
    def __init__(self, roots: _Optional[_Iterable[_Union[SignedRoot, _Mapping]]] = ...) -> None: ...

class SignedRoot(_message.Message):
    __slots__ = ("silo", "root", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    root: bytes
    signature: bytes
    def __init__(self, silo: _Optional[str] = ..., root: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SurvivorsSignature(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class SurvivorsSignatures(_message.Message):
    __slots__ = ("signatures",)
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[SiloSignature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[SiloSignature, _Mapping]]] = ...) -> None: ...

class SiloSignature(_message.Message):
    __slots__ = ("silo", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    signature: bytes
    def __init__(self, silo: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class RevealedShares(_message.Message):
    __slots__ = ("self_seeds", "bundle_keys")
    SELF_SEEDS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_KEYS_FIELD_NUMBER: _ClassVar[int]
    self_seeds: _containers.RepeatedCompositeFieldContainer[RevealedShare]
    bundle_keys: _containers.RepeatedCompositeFieldContainer[RevealedShare]
    def __init__(self, self_seeds: _Optional[_Iterable[_Union[RevealedShare, _Mapping]]] = ..., bundle_keys: _Optional[_Iterable[_Union[RevealedShare, _Mapping]]] = ...) -> None: ...

class RevealedShare(_message.Message):
    __slots__ = ("silo", "share")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    share: bytes
    def __init__(self, silo: _Optional[str] = ..., share: _Optional[bytes] = ...) -> None: ...

class Opening(_message.Message):
    __slots__ = ("sum_root", "self_seeds", "pair_seeds")
    SUM_ROOT_FIELD_NUMBER: _ClassVar[int]
    SELF_SEEDS_FIELD_NUMBER: _ClassVar[int]
    PAIR_SEEDS_FIELD_NUMBER: _ClassVar[int]
    sum_root: bytes
    self_seeds: _containers.RepeatedCompositeFieldContainer[Seed]
    pair_seeds: _containers.RepeatedCompositeFieldContainer[PairSeed]
    def __init__(self, sum_root: _Optional[bytes] = ..., self_seeds: _Optional[_Iterable[_Union[Seed, _Mapping]]] = ..., pair_seeds: _Optional[_Iterable[_Union[PairSeed, _Mapping]]] = ...) -> None: ...

class Seed(_message.Message):
    __slots__ = ("silo", "seed")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    silo: str
    seed: bytes
    def __init__(self, silo: _Optional[str] = ..., seed: _Optional[bytes] = ...) -> None: ...

class PairSeed(_message.Message):
    __slots__ = ("dropped", "survivor", "seed")
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    SURVIVOR_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    dropped: str
    survivor: str
    seed: bytes
    def __init__(self, dropped: _Optional[str] = ..., survivor: _Optional[str] = ..., seed: _Optional[bytes] = ...) -> None: ...

class OpeningSignature(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class OpeningSignatures(_message.Message):
    __slots__ = ("signatures",)
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[SiloSignature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[SiloSignature, _Mapping]]] = ...) -> None: ...

class Coin(_message.Message):
    __slots__ = ("coin",)
    COIN_FIELD_NUMBER: _ClassVar[int]
    coin: bytes
    def __init__(self, coin: _Optional[bytes] = ...) -> None: ...

class Coins(_message.Message):
    __slots__ = ("coins",)
    COINS_FIELD_NUMBER: _ClassVar[int]
    coins: _containers.RepeatedCompositeFieldContainer[SiloCoin]
    def __init__(self, coins: _Optional[_Iterable[_Union[SiloCoin, _Mapping]]] = ...) -> None: ...

class SiloCoin(_message.Message):
    __slots__ = ("silo", "coin")
    SILO_FIELD_NUMBER: _ClassVar[int]
    COIN_FIELD_NUMBER: _ClassVar[int]
    silo: str
    coin: bytes
    def __init__(self, silo: _Optional[str] = ..., coin: _Optional[bytes] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class Verdicts(_message.Message):
    __slots__ = ("signatures",)
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[SiloSignature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[SiloSignature, _Mapping]]] = ...) -> None: ...

class Transcript(_message.Message):
    __slots__ = ("plan", "index", "input", "participants", "survivors", "survivors_signatures", "opening", "opening_signatures", "coins", "verdicts", "cohort")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    OPENING_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    COINS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    index: int
    input: bytes
    participants: Participants
    survivors: Survivors
    survivors_signatures: SurvivorsSignatures
    opening: Opening
    opening_signatures: OpeningSignatures
    coins: Coins
    verdicts: Verdicts
    cohort: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plan: _Optional[bytes] = ..., index: _Optional[int] = ..., input: _Optional[bytes] = ..., participants: _Optional[_Union[Participants, _Mapping]] = ..., survivors: _Optional[_Union[Survivors, _Mapping]] = ..., survivors_signatures: _Optional[_Union[SurvivorsSignatures, _Mapping]] = ..., opening: _Optional[_Union[Opening, _Mapping]] = ..., opening_signatures: _Optional[_Union[OpeningSignatures, _Mapping]] = ..., coins: _Optional[_Union[Coins, _Mapping]] = ..., verdicts: _Optional[_Union[Verdicts, _Mapping]] = ..., cohort: _Optional[_Iterable[str]] = ...) -> None: ...

class Aborted(_message.Message):
    __slots__ = ("phase", "reason")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    phase: str
    reason: str
    def __init__(self, phase: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
