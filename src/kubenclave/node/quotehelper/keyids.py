# SPDX-License-Identifier: Apache-2.0
"""Questions about attestation key ids, answered without asking anybody (aesm.md sections 2.3, 2.4 and 3).

There is one id, that of Intel's quoting enclave, whatever makes the quotes: clients have it compiled in.
"""

from typing import Final

from kubenclave.errors import FormatError
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID, KEY_ID_SIZE, parse_key_id_list, same_key

_COUNT: Final = 1

Question = aesm.GetKeyIdCount | aesm.GetKeyIds | aesm.SelectKeyId | aesm.Legacy


def answer(request: Question) -> aesm.Reply:
    """Answer a question about ids; EPID and launch messages are none of our business and get code 30."""
    match request:
        case aesm.GetKeyIdCount():
            return aesm.KeyIdCount(_COUNT)
        case aesm.GetKeyIds(buf_size):
            if buf_size == _COUNT * KEY_ID_SIZE:
                return aesm.KeyIds(ECDSA_P256_KEY_ID)
            missing = buf_size is None
            return aesm.Refusal(request, AesmError.UNEXPECTED_ERROR if missing else AesmError.PARAMETER_ERROR)
        case aesm.SelectKeyId(key_id_list):
            return _select(request, key_id_list)
        case _:
            return aesm.Refusal(request, AesmError.SERVICE_UNAVAILABLE)


def problem(key_id: bytes | None) -> AesmError | None:
    """Say what is wrong with the id in a request, None if nothing is."""
    if key_id is None or len(key_id) < KEY_ID_SIZE:
        return AesmError.PARAMETER_ERROR
    return None if same_key(key_id, ECDSA_P256_KEY_ID) else AesmError.UNSUPPORTED_ATT_KEY_ID


def _select(request: aesm.SelectKeyId, key_id_list: bytes | None) -> aesm.Reply:
    if key_id_list is None:
        return aesm.SelectedKeyId(ECDSA_P256_KEY_ID)
    try:
        listed = parse_key_id_list(key_id_list)
    except FormatError:
        return aesm.Refusal(request, AesmError.PARAMETER_ERROR)
    for key_id in listed:
        if same_key(key_id, ECDSA_P256_KEY_ID):
            return aesm.SelectedKeyId(key_id)  # the client's copy, so that the bytes that do not count come back
    return aesm.Refusal(request, AesmError.UNSUPPORTED_ATT_KEY_ID)
