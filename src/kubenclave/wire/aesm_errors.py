# SPDX-License-Identifier: Apache-2.0
"""Error codes of the AESM protocol, and what the codes of Intel's quoting library become in it (aesm.md 2.5)."""

from enum import IntEnum
from typing import Final


class AesmError(IntEnum):
    """Every code that an AESM reply may carry; the names are Intel's without their prefix AESM_.

    27 is no longer assigned by Intel, but some clients still know it by this name.
    """

    SUCCESS = 0
    UNEXPECTED_ERROR = 1
    NO_DEVICE_ERROR = 2
    PARAMETER_ERROR = 3
    EPIDBLOB_ERROR = 4
    EPID_REVOKED_ERROR = 5
    GET_LICENSETOKEN_ERROR = 6
    SESSION_INVALID = 7
    MAX_NUM_SESSION_REACHED = 8
    PSDA_UNAVAILABLE = 9
    EPH_SESSION_FAILED = 10
    LONG_TERM_PAIRING_FAILED = 11
    NETWORK_ERROR = 12
    NETWORK_BUSY_ERROR = 13
    PROXY_SETTING_ASSIST = 14
    FILE_ACCESS_ERROR = 15
    SGX_PROVISION_FAILED = 16
    SERVICE_STOPPED = 17
    BUSY = 18
    BACKEND_SERVER_BUSY = 19
    UPDATE_AVAILABLE = 20
    OUT_OF_MEMORY_ERROR = 21
    MSG_ERROR = 22
    THREAD_ERROR = 23
    SGX_DEVICE_NOT_AVAILABLE = 24
    ENABLE_SGX_DEVICE_FAILED = 25
    PLATFORM_INFO_BLOB_INVALID_SIG = 26
    SERVICE_NOT_AVAILABLE = 27
    KDF_MISMATCH = 28
    OUT_OF_EPC = 29
    SERVICE_UNAVAILABLE = 30
    UNRECOGNIZED_PLATFORM = 31
    ECDSA_ID_MISMATCH = 32
    PATHNAME_BUFFER_OVERFLOW_ERROR = 33
    ERROR_STORED_KEY = 34
    PUB_KEY_ID_MISMATCH = 35
    INVALID_PCE_SIG_SCHEME = 36
    ATT_KEY_BLOB_ERROR = 37
    UNSUPPORTED_ATT_KEY_ID = 38
    UNSUPPORTED_LOADING_POLICY = 39
    INTERFACE_UNAVAILABLE = 40
    PLATFORM_LIB_UNAVAILABLE = 41
    ATT_KEY_NOT_INITIALIZED = 42
    ATT_KEY_CERT_DATA_INVALID = 43
    NO_PLATFORM_CERT_DATA = 44
    ERROR_REPORT = 45
    ENCLAVE_LOST = 46
    INVALID_REPORT = 47
    ENCLAVE_LOAD_ERROR = 48
    UNABLE_TO_GENERATE_QE_REPORT = 49
    KEY_CERTIFICATION_ERROR = 50
    CONFIG_UNSUPPORTED = 51

    @classmethod
    def from_number(cls, number: int) -> "AesmError":
        """Return the code, UNEXPECTED_ERROR for a number without a meaning."""
        return _BY_NUMBER.get(number, cls.UNEXPECTED_ERROR)

    @classmethod
    def from_quote3(cls, code: int) -> "AesmError":
        """Translate a ``quote3_error_t`` as Intel's daemon does.

        Codes after 0xE01A all become UNEXPECTED_ERROR, so the original belongs into a log beside it.
        """
        return _FROM_QUOTE3.get(code, cls.UNEXPECTED_ERROR)


_BY_NUMBER: Final = {int(error): error for error in AesmError}

_FROM_QUOTE3: Final = {
    0: AesmError.SUCCESS,
    0xE001: AesmError.UNEXPECTED_ERROR,
    0xE002: AesmError.PARAMETER_ERROR,
    0xE003: AesmError.OUT_OF_MEMORY_ERROR,
    0xE004: AesmError.ECDSA_ID_MISMATCH,
    0xE005: AesmError.PATHNAME_BUFFER_OVERFLOW_ERROR,
    0xE006: AesmError.FILE_ACCESS_ERROR,
    0xE007: AesmError.ERROR_STORED_KEY,
    0xE008: AesmError.PUB_KEY_ID_MISMATCH,
    0xE009: AesmError.INVALID_PCE_SIG_SCHEME,
    0xE00A: AesmError.ATT_KEY_BLOB_ERROR,
    0xE00B: AesmError.UNSUPPORTED_ATT_KEY_ID,
    0xE00C: AesmError.UNSUPPORTED_LOADING_POLICY,
    0xE00D: AesmError.INTERFACE_UNAVAILABLE,
    0xE00E: AesmError.PLATFORM_LIB_UNAVAILABLE,
    0xE00F: AesmError.ATT_KEY_NOT_INITIALIZED,
    0xE010: AesmError.ATT_KEY_CERT_DATA_INVALID,
    0xE011: AesmError.NO_PLATFORM_CERT_DATA,
    0xE012: AesmError.OUT_OF_EPC,
    0xE013: AesmError.ERROR_REPORT,
    0xE014: AesmError.ENCLAVE_LOST,
    0xE015: AesmError.INVALID_REPORT,
    0xE016: AesmError.ENCLAVE_LOAD_ERROR,
    0xE017: AesmError.UNABLE_TO_GENERATE_QE_REPORT,
    0xE018: AesmError.KEY_CERTIFICATION_ERROR,
    0xE019: AesmError.NETWORK_ERROR,
    0xE01A: AesmError.MSG_ERROR,
}
