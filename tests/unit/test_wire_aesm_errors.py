# SPDX-License-Identifier: Apache-2.0
"""Error codes against the table of aesm.md section 2.5, retyped here from the specification's text."""

import pytest

from kubenclave.wire.aesm_errors import AesmError

# The one-to-one part of the mapping, as the specification lists it from 0xE001 on.
FROM_E001 = [1, 3, 21, 32, 33, 15, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 29, 45, 46, 47, 48, 49, 50, 12, 22]


def test_every_code_has_a_name():
    assert [int(error) for error in AesmError] == list(range(52))


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "SUCCESS"),
        (1, "UNEXPECTED_ERROR"),
        (2, "NO_DEVICE_ERROR"),
        (3, "PARAMETER_ERROR"),
        (12, "NETWORK_ERROR"),
        (13, "NETWORK_BUSY_ERROR"),
        (14, "PROXY_SETTING_ASSIST"),
        (17, "SERVICE_STOPPED"),
        (18, "BUSY"),
        (20, "UPDATE_AVAILABLE"),
        (21, "OUT_OF_MEMORY_ERROR"),
        (22, "MSG_ERROR"),
        (29, "OUT_OF_EPC"),
        (30, "SERVICE_UNAVAILABLE"),
        (38, "UNSUPPORTED_ATT_KEY_ID"),
        (40, "INTERFACE_UNAVAILABLE"),
        (41, "PLATFORM_LIB_UNAVAILABLE"),
        (42, "ATT_KEY_NOT_INITIALIZED"),
        (43, "ATT_KEY_CERT_DATA_INVALID"),
        (44, "NO_PLATFORM_CERT_DATA"),
        (45, "ERROR_REPORT"),
        (46, "ENCLAVE_LOST"),
        (47, "INVALID_REPORT"),
        (48, "ENCLAVE_LOAD_ERROR"),
        (49, "UNABLE_TO_GENERATE_QE_REPORT"),
        (50, "KEY_CERTIFICATION_ERROR"),
        (51, "CONFIG_UNSUPPORTED"),
    ],
)
def test_names_are_those_of_the_specification(number, name):
    assert AesmError.from_number(number) is AesmError[name]


@pytest.mark.parametrize(("offset", "wanted"), list(enumerate(FROM_E001)))
def test_codes_of_the_quoting_library_map_one_to_one_up_to_e01a(offset, wanted):
    assert AesmError.from_quote3(0xE001 + offset) == wanted


@pytest.mark.parametrize("code", [0xE01B, 0xE035, 0xE03E, 0xE044, 0xE047, 0xE049, 0xE065, 0xE000, 7, -1, 2**32 - 1])
def test_all_others_are_unexpected(code):
    assert AesmError.from_quote3(code) is AesmError.UNEXPECTED_ERROR


def test_success_and_numbers_without_meaning():
    assert AesmError.from_quote3(0) is AesmError.SUCCESS
    assert AesmError.from_number(52) is AesmError.UNEXPECTED_ERROR
