# SPDX-License-Identifier: Apache-2.0
"""Questions about key ids: counted, listed, selected, compared."""

import pytest

from kubenclave.node.quotehelper import keyids
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import COMPARED_SIZE, build_key_id_list
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID

OTHER = KEY_ID[:154] + b"\0\0\0\0" + KEY_ID[158:]  # EPID
DECORATED = KEY_ID[:COMPARED_SIZE] + b"x" * (256 - COMPARED_SIZE)


def refusal(request: aesm.Request, error: AesmError) -> aesm.Refusal:
    return aesm.Refusal(request, error)


def test_there_is_one_id_and_it_is_intels():
    assert keyids.answer(aesm.GetKeyIdCount()) == aesm.KeyIdCount(1)
    assert keyids.answer(aesm.GetKeyIds(256)) == aesm.KeyIds(KEY_ID)


@pytest.mark.parametrize(
    ("size", "error"),
    [(None, AesmError.UNEXPECTED_ERROR), (0, AesmError.PARAMETER_ERROR), (512, AesmError.PARAMETER_ERROR)],
    ids=["missing", "none", "two"],
)
def test_the_list_of_ids_is_had_for_its_exact_size_only(size, error):
    assert keyids.answer(aesm.GetKeyIds(size)) == refusal(aesm.GetKeyIds(size), error)


@pytest.mark.parametrize(
    ("listed", "selected"),
    [
        pytest.param(None, KEY_ID, id="no-list"),
        pytest.param([KEY_ID], KEY_ID, id="ours"),
        pytest.param([OTHER, DECORATED, KEY_ID], DECORATED, id="the-clients-copy-of-the-first-match"),
    ],
)
def test_an_id_is_selected(listed, selected):
    request = aesm.SelectKeyId(None if listed is None else build_key_id_list(listed))
    assert keyids.answer(request) == aesm.SelectedKeyId(selected)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(build_key_id_list([OTHER]), AesmError.UNSUPPORTED_ATT_KEY_ID, id="no-match"),
        pytest.param(build_key_id_list([]), AesmError.UNSUPPORTED_ATT_KEY_ID, id="empty"),
        pytest.param(b"", AesmError.PARAMETER_ERROR, id="no-head"),
        pytest.param(build_key_id_list([KEY_ID])[:-1], AesmError.PARAMETER_ERROR, id="short"),
        pytest.param(build_key_id_list([KEY_ID]) + b"\0", AesmError.PARAMETER_ERROR, id="long"),
        pytest.param(build_key_id_list([KEY_ID] * 11), AesmError.PARAMETER_ERROR, id="eleven"),
    ],
)
def test_a_selection_fails(data, error):
    assert keyids.answer(aesm.SelectKeyId(data)) == refusal(aesm.SelectKeyId(data), error)


def test_legacy_messages_are_unavailable():
    assert keyids.answer(aesm.Legacy(3)) == refusal(aesm.Legacy(3), AesmError.SERVICE_UNAVAILABLE)


@pytest.mark.parametrize(
    ("key_id", "error"),
    [
        pytest.param(KEY_ID, None, id="ours"),
        pytest.param(DECORATED, None, id="other-padding"),
        pytest.param(KEY_ID + b"more", None, id="longer"),
        pytest.param(None, AesmError.PARAMETER_ERROR, id="missing"),
        pytest.param(KEY_ID[:-1], AesmError.PARAMETER_ERROR, id="short"),
        pytest.param(OTHER, AesmError.UNSUPPORTED_ATT_KEY_ID, id="other"),
    ],
)
def test_an_id_in_a_request_is_compared_as_aesmd_does(key_id, error):
    assert keyids.problem(key_id) is error
