"""Why a connection cannot be made, from what gRPC says of it, and whether it is any use to go on trying."""

from datetime import UTC, datetime

from crypto.errors import ConnectionFailed, IdentityError, SparsiloError


def is_distrusted(details: str) -> bool:
    """Return whether the certificate shown is not to be trusted, whatever the clocks say."""
    failed = "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details
    return failed and not out_of_time(details)


def out_of_time(details: str) -> str:
    """Return what this machine's clock makes of the certificate shown, in an error's words; empty where it may pass."""
    for words in ("is not yet valid", "has expired"):
        if f"CERTIFICATE_VERIFY_FAILED: certificate {words}" in details:
            return words
    return ""


def by_clock(words: str) -> str:
    """Return what `out_of_time` said, with this machine's clock."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    return f"the certificate shown there {words}, and this machine's clock says {now} UTC"


def unreachable(target: str, answer: str, details: str) -> SparsiloError:
    """Return the error that ends the tries. `answer` is the status code's name where `target` answers at all."""
    if words := out_of_time(details):
        return IdentityError(
            f"{target}: {by_clock(words)}",
            hint="set the clock that is wrong, this machine's or the aggregator's; where both are right, the "
            "aggregator's people must renew its certificate",
        )
    if is_distrusted(details):
        return IdentityError(
            f"{target}: the certificate shown there is not to be trusted",
            hint="check the address, and authority in the config",
        )
    if answer:
        return ConnectionFailed(f"{target}: answers {answer}: {details}", hint="the aggregator's people have a log")
    return ConnectionFailed(
        f"{target}: cannot be reached",
        hint="check the address, the network, that the aggregator runs, and that it accepts this silo's certificate",
    )
