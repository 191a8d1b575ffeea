from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("initQuoteReq", "getQuoteReq", "getLicTokenReq", "reportErrReq", "getWhiteListSizeReq", "getWhiteListReq", "sgxGetExtendedEpidGroupIdReq", "sgxSwitchExtendedEpidGroupReq", "sgxRegisterReq", "checkUpdateStatusReq", "initQuoteExReq", "getQuoteSizeExReq", "getQuoteExReq", "selectAttKeyIDReq", "getSupportedAttKeyIDNumReq", "getSupportedAttKeyIDsReq")
    INITQUOTEREQ_FIELD_NUMBER: _ClassVar[int]
    GETQUOTEREQ_FIELD_NUMBER: _ClassVar[int]
    GETLICTOKENREQ_FIELD_NUMBER: _ClassVar[int]
    REPORTERRREQ_FIELD_NUMBER: _ClassVar[int]
    GETWHITELISTSIZEREQ_FIELD_NUMBER: _ClassVar[int]
    GETWHITELISTREQ_FIELD_NUMBER: _ClassVar[int]
    SGXGETEXTENDEDEPIDGROUPIDREQ_FIELD_NUMBER: _ClassVar[int]
    SGXSWITCHEXTENDEDEPIDGROUPREQ_FIELD_NUMBER: _ClassVar[int]
    SGXREGISTERREQ_FIELD_NUMBER: _ClassVar[int]
    CHECKUPDATESTATUSREQ_FIELD_NUMBER: _ClassVar[int]
    INITQUOTEEXREQ_FIELD_NUMBER: _ClassVar[int]
    GETQUOTESIZEEXREQ_FIELD_NUMBER: _ClassVar[int]
    GETQUOTEEXREQ_FIELD_NUMBER: _ClassVar[int]
    SELECTATTKEYIDREQ_FIELD_NUMBER: _ClassVar[int]
    GETSUPPORTEDATTKEYIDNUMREQ_FIELD_NUMBER: _ClassVar[int]
    GETSUPPORTEDATTKEYIDSREQ_FIELD_NUMBER: _ClassVar[int]
    initQuoteReq: Legacy
    getQuoteReq: Legacy
    getLicTokenReq: Legacy
    reportErrReq: Legacy
    getWhiteListSizeReq: Legacy
    getWhiteListReq: Legacy
    sgxGetExtendedEpidGroupIdReq: Legacy
    sgxSwitchExtendedEpidGroupReq: Legacy
    sgxRegisterReq: Legacy
    checkUpdateStatusReq: Legacy
    initQuoteExReq: InitQuoteExRequest
    getQuoteSizeExReq: GetQuoteSizeExRequest
    getQuoteExReq: GetQuoteExRequest
    selectAttKeyIDReq: SelectAttKeyIDRequest
    getSupportedAttKeyIDNumReq: GetSupportedAttKeyIDNumRequest
    getSupportedAttKeyIDsReq: GetSupportedAttKeyIDsRequest
    def __init__(self, initQuoteReq: _Optional[_Union[Legacy, _Mapping]] = ..., getQuoteReq: _Optional[_Union[Legacy, _Mapping]] = ..., getLicTokenReq: _Optional[_Union[Legacy, _Mapping]] = ..., reportErrReq: _Optional[_Union[Legacy, _Mapping]] = ..., getWhiteListSizeReq: _Optional[_Union[Legacy, _Mapping]] = ..., getWhiteListReq: _Optional[_Union[Legacy, _Mapping]] = ..., sgxGetExtendedEpidGroupIdReq: _Optional[_Union[Legacy, _Mapping]] = ..., sgxSwitchExtendedEpidGroupReq: _Optional[_Union[Legacy, _Mapping]] = ..., sgxRegisterReq: _Optional[_Union[Legacy, _Mapping]] = ..., checkUpdateStatusReq: _Optional[_Union[Legacy, _Mapping]] = ..., initQuoteExReq: _Optional[_Union[InitQuoteExRequest, _Mapping]] = ..., getQuoteSizeExReq: _Optional[_Union[GetQuoteSizeExRequest, _Mapping]] = ..., getQuoteExReq: _Optional[_Union[GetQuoteExRequest, _Mapping]] = ..., selectAttKeyIDReq: _Optional[_Union[SelectAttKeyIDRequest, _Mapping]] = ..., getSupportedAttKeyIDNumReq: _Optional[_Union[GetSupportedAttKeyIDNumRequest, _Mapping]] = ..., getSupportedAttKeyIDsReq: _Optional[_Union[GetSupportedAttKeyIDsRequest, _Mapping]] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("initQuoteRes", "getQuoteRes", "getLicTokenRes", "reportErrRes", "getWhiteListSizeRes", "getWhiteListRes", "sgxGetExtendedEpidGroupIdRes", "sgxSwitchExtendedEpidGroupRes", "sgxRegisterRes", "checkUpdateStatusRes", "initQuoteExRes", "getQuoteSizeExRes", "getQuoteExRes", "selectAttKeyIDRes", "getSupportedAttKeyIDNumRes", "getSupportedAttKeyIDsRes")
    INITQUOTERES_FIELD_NUMBER: _ClassVar[int]
    GETQUOTERES_FIELD_NUMBER: _ClassVar[int]
    GETLICTOKENRES_FIELD_NUMBER: _ClassVar[int]
    REPORTERRRES_FIELD_NUMBER: _ClassVar[int]
    GETWHITELISTSIZERES_FIELD_NUMBER: _ClassVar[int]
    GETWHITELISTRES_FIELD_NUMBER: _ClassVar[int]
    SGXGETEXTENDEDEPIDGROUPIDRES_FIELD_NUMBER: _ClassVar[int]
    SGXSWITCHEXTENDEDEPIDGROUPRES_FIELD_NUMBER: _ClassVar[int]
    SGXREGISTERRES_FIELD_NUMBER: _ClassVar[int]
    CHECKUPDATESTATUSRES_FIELD_NUMBER: _ClassVar[int]
    INITQUOTEEXRES_FIELD_NUMBER: _ClassVar[int]
    GETQUOTESIZEEXRES_FIELD_NUMBER: _ClassVar[int]
    GETQUOTEEXRES_FIELD_NUMBER: _ClassVar[int]
    SELECTATTKEYIDRES_FIELD_NUMBER: _ClassVar[int]
    GETSUPPORTEDATTKEYIDNUMRES_FIELD_NUMBER: _ClassVar[int]
    GETSUPPORTEDATTKEYIDSRES_FIELD_NUMBER: _ClassVar[int]
    initQuoteRes: LegacyResponse
    getQuoteRes: LegacyResponse
    getLicTokenRes: LegacyResponse
    reportErrRes: LegacyResponse
    getWhiteListSizeRes: LegacyResponse
    getWhiteListRes: LegacyResponse
    sgxGetExtendedEpidGroupIdRes: LegacyResponse
    sgxSwitchExtendedEpidGroupRes: LegacyResponse
    sgxRegisterRes: LegacyResponse
    checkUpdateStatusRes: LegacyResponse
    initQuoteExRes: InitQuoteExResponse
    getQuoteSizeExRes: GetQuoteSizeExResponse
    getQuoteExRes: GetQuoteExResponse
    selectAttKeyIDRes: SelectAttKeyIDResponse
    getSupportedAttKeyIDNumRes: GetSupportedAttKeyIDNumResponse
    getSupportedAttKeyIDsRes: GetSupportedAttKeyIDsResponse
    def __init__(self, initQuoteRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., getQuoteRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., getLicTokenRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., reportErrRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., getWhiteListSizeRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., getWhiteListRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., sgxGetExtendedEpidGroupIdRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., sgxSwitchExtendedEpidGroupRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., sgxRegisterRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., checkUpdateStatusRes: _Optional[_Union[LegacyResponse, _Mapping]] = ..., initQuoteExRes: _Optional[_Union[InitQuoteExResponse, _Mapping]] = ..., getQuoteSizeExRes: _Optional[_Union[GetQuoteSizeExResponse, _Mapping]] = ..., getQuoteExRes: _Optional[_Union[GetQuoteExResponse, _Mapping]] = ..., selectAttKeyIDRes: _Optional[_Union[SelectAttKeyIDResponse, _Mapping]] = ..., getSupportedAttKeyIDNumRes: _Optional[_Union[GetSupportedAttKeyIDNumResponse, _Mapping]] = ..., getSupportedAttKeyIDsRes: _Optional[_Union[GetSupportedAttKeyIDsResponse, _Mapping]] = ...) -> None: ...

class Legacy(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LegacyResponse(_message.Message):
    __slots__ = ("errorCode",)
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    def __init__(self, errorCode: _Optional[int] = ...) -> None: ...

class GetSupportedAttKeyIDNumRequest(_message.Message):
    __slots__ = ("timeout",)
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    timeout: int
    def __init__(self, timeout: _Optional[int] = ...) -> None: ...

class GetSupportedAttKeyIDNumResponse(_message.Message):
    __slots__ = ("errorCode", "att_key_id_num")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    ATT_KEY_ID_NUM_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    att_key_id_num: int
    def __init__(self, errorCode: _Optional[int] = ..., att_key_id_num: _Optional[int] = ...) -> None: ...

class GetSupportedAttKeyIDsRequest(_message.Message):
    __slots__ = ("buf_size", "timeout")
    BUF_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    buf_size: int
    timeout: int
    def __init__(self, buf_size: _Optional[int] = ..., timeout: _Optional[int] = ...) -> None: ...

class GetSupportedAttKeyIDsResponse(_message.Message):
    __slots__ = ("errorCode", "att_key_ids")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    ATT_KEY_IDS_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    att_key_ids: bytes
    def __init__(self, errorCode: _Optional[int] = ..., att_key_ids: _Optional[bytes] = ...) -> None: ...

class SelectAttKeyIDRequest(_message.Message):
    __slots__ = ("att_key_id_list", "timeout")
    ATT_KEY_ID_LIST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    att_key_id_list: bytes
    timeout: int
    def __init__(self, att_key_id_list: _Optional[bytes] = ..., timeout: _Optional[int] = ...) -> None: ...

class SelectAttKeyIDResponse(_message.Message):
    __slots__ = ("errorCode", "selected_att_key_id")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    SELECTED_ATT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    selected_att_key_id: bytes
    def __init__(self, errorCode: _Optional[int] = ..., selected_att_key_id: _Optional[bytes] = ...) -> None: ...

class InitQuoteExRequest(_message.Message):
    __slots__ = ("att_key_id", "b_pub_key_id", "buf_size", "timeout")
    ATT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    B_PUB_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    BUF_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    att_key_id: bytes
    b_pub_key_id: bool
    buf_size: int
    timeout: int
    def __init__(self, att_key_id: _Optional[bytes] = ..., b_pub_key_id: _Optional[bool] = ..., buf_size: _Optional[int] = ..., timeout: _Optional[int] = ...) -> None: ...

class InitQuoteExResponse(_message.Message):
    __slots__ = ("errorCode", "target_info", "pub_key_id_size", "pub_key_id")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    TARGET_INFO_FIELD_NUMBER: _ClassVar[int]
    PUB_KEY_ID_SIZE_FIELD_NUMBER: _ClassVar[int]
    PUB_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    target_info: bytes
    pub_key_id_size: int
    pub_key_id: bytes
    def __init__(self, errorCode: _Optional[int] = ..., target_info: _Optional[bytes] = ..., pub_key_id_size: _Optional[int] = ..., pub_key_id: _Optional[bytes] = ...) -> None: ...

class GetQuoteSizeExRequest(_message.Message):
    __slots__ = ("att_key_id", "timeout")
    ATT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    att_key_id: bytes
    timeout: int
    def __init__(self, att_key_id: _Optional[bytes] = ..., timeout: _Optional[int] = ...) -> None: ...

class GetQuoteSizeExResponse(_message.Message):
    __slots__ = ("errorCode", "quote_size")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    QUOTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    quote_size: int
    def __init__(self, errorCode: _Optional[int] = ..., quote_size: _Optional[int] = ...) -> None: ...

class GetQuoteExRequest(_message.Message):
    __slots__ = ("report", "att_key_id", "qe_report_info", "buf_size", "timeout")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ATT_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    QE_REPORT_INFO_FIELD_NUMBER: _ClassVar[int]
    BUF_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    report: bytes
    att_key_id: bytes
    qe_report_info: bytes
    buf_size: int
    timeout: int
    def __init__(self, report: _Optional[bytes] = ..., att_key_id: _Optional[bytes] = ..., qe_report_info: _Optional[bytes] = ..., buf_size: _Optional[int] = ..., timeout: _Optional[int] = ...) -> None: ...

class GetQuoteExResponse(_message.Message):
    __slots__ = ("errorCode", "quote", "qe_report_info")
    ERRORCODE_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    QE_REPORT_INFO_FIELD_NUMBER: _ClassVar[int]
    errorCode: int
    quote: bytes
    qe_report_info: bytes
    def __init__(self, errorCode: _Optional[int] = ..., quote: _Optional[bytes] = ..., qe_report_info: _Optional[bytes] = ...) -> None: ...
