from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("signing_key", "certificate_request", "signature", "certificate_key")
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_KEY_FIELD_NUMBER: _ClassVar[int]
    signing_key: bytes
    certificate_request: bytes
    signature: bytes
    certificate_key: bytes
    def __init__(self, signing_key: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificate_key: _Optional[bytes] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class AnnounceRequest(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: bytes
    def __init__(self, signature: _Optional[bytes] = ...) -> None: ...

class AnnounceReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RosterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RosterReply(_message.Message):
    __slots__ = ("silos",)
    SILOS_FIELD_NUMBER: _ClassVar[int]
    silos: _containers.RepeatedCompositeFieldContainer[EnrolledSilo]
    def __init__(self, silos: _Optional[_Iterable[_Union[EnrolledSilo, _Mapping]]] = ...) -> None: ...

class EnrolledSilo(_message.Message):
    __slots__ = ("silo", "signing_key", "signature")
    SILO_FIELD_NUMBER: _ClassVar[int]
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    silo: str
    signing_key: bytes
    signature: bytes
    def __init__(self, silo: _Optional[str] = ..., signing_key: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignRosterRequest(_message.Message):
    __slots__ = ("fingerprint", "signature")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    fingerprint: bytes
    signature: bytes
    def __init__(self, fingerprint: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SignRosterReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("unix_seconds", "version", "roster")
    UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    unix_seconds: int
    version: str
    roster: bytes
    def __init__(self, unix_seconds: _Optional[int] = ..., version: _Optional[str] = ..., roster: _Optional[bytes] = ...) -> None: ...
