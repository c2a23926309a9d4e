"""The transition table of `double_masking`, for both roles. What it does not list aborts the round (docs/protocol.md,
section 4).

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), figure 4, on the
complete graph, with one exchange more (KEYS): pair seeds are agreed by sealed contributions from both ends, since a
post-quantum KEM has no non-interactive key agreement.
"""

from typing import Final

from crypto.names import Phase
from crypto.secagg.session import Exchange, Table

TABLE: Final[Table] = {
    Phase.PLAN: Exchange(silo="acceptance", aggregator="participants", then=Phase.KEYS),
    Phase.KEYS: Exchange(silo="pair_seeds", aggregator="pair_seed_delivery", then=Phase.SHARES),
    Phase.SHARES: Exchange(silo="shares", aggregator="share_delivery", then=Phase.UPLOAD),
    Phase.UPLOAD: Exchange(silo="upload_root", aggregator="survivors", then=Phase.CONSISTENCY),
    Phase.CONSISTENCY: Exchange(silo="survivors_signature", aggregator="survivors_signatures", then=Phase.UNMASK),
    Phase.UNMASK: Exchange(silo="revealed_shares", aggregator="opening", then=Phase.OPENING),
    Phase.OPENING: Exchange(silo="opening_signature", aggregator="opening_signatures", then=Phase.COIN),
    Phase.COIN: Exchange(silo="coin", aggregator="coins", then=Phase.AUDIT),
    Phase.AUDIT: Exchange(silo="verdict", aggregator="verdicts", then=Phase.DONE),
}
