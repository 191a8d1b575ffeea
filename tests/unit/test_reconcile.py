# SPDX-License-Identifier: Apache-2.0
"""What the node agent makes of a Node object."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.node.deviceplugin import EpcMode
from kubenclave.node.reconcile import (
    Facts,
    Wishes,
    event_object,
    events,
    facts_of,
    farewell_patch,
    lack_of,
    next_patch,
    settled,
)
from kubenclave.platform.base import DeviceKind, DeviceNode, DriverFlavour, EpcSection, EpcSource, Inventory
from kubenclave.sgx.epc import MIB
from tests.node_objects import RefusedError, new_node, patched

NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T04:04:05Z"
EPC = "sgx.intel.com/epc"
ENCLAVE = "sgx.intel.com/enclave"
TAINT = "startup-taint.cluster-autoscaler.kubernetes.io/sgx"
DEVICE = DeviceNode("/dev/sgx_enclave", DeviceKind.ENCLAVE, 10, 125, 0o666, 0, 0)


def hardware(*sizes: int) -> Inventory:
    sections = tuple(EpcSection(number, size * MIB) for number, size in enumerate(sizes))
    return Inventory(DriverFlavour.IN_KERNEL, (DEVICE,), sections, EpcSource.SYSFS)


def simulated(size: int) -> Inventory:
    sections = (EpcSection(None, size * MIB),)
    return Inventory(DriverFlavour.SIMULATED, (), sections, EpcSource.SIMULATED, cpu_socket="/run/x/cpu.sock")


def facts(inventory: Inventory, error: KubenclaveError | None = None, **more: Any) -> Facts:
    rest = {"lasts": True, "held": True, "aesm": None, "await_aesm": False, **more}
    return facts_of(inventory, lack_of(inventory, error), **rest)


def publish(state: Facts, node: dict[str, Any], wishes: Wishes | None = None, now: str = NOW) -> dict[str, Any]:
    """Apply patches until none is left, as the publisher does."""
    for _ in range(5):
        patch = next_patch(state, wishes or Wishes(), node, now)
        if patch is None:
            return node
        node = patched(node, patch.kind, patch.body, status=patch.status)
    raise AssertionError("does not come to rest")


def condition(node: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = next(one for one in node["status"]["conditions"] if one["type"] == "SGXReady")
    return found


def test_a_node_with_sgx_says_how_much_and_where():
    node = publish(facts(hardware(64, 32)), new_node())
    assert node["status"]["capacity"] == {"cpu": "2", EPC: str(96 * MIB)}
    assert node["status"]["allocatable"][EPC] == str(96 * MIB)
    assert node["metadata"]["labels"] == {
        "app": "x",
        "kubenclave.dev/sgx": "true",
        "kubenclave.dev/epc-mode": "capacity",
        "sgx.intel.com/capable": "true",
        "intel.feature.node.kubernetes.io/sgx": "true",
    }
    annotations = node["metadata"]["annotations"]
    assert json.loads(annotations["kubenclave.dev/epc-numa"]) == {"0": 64 * MIB, "1": 32 * MIB}
    assert annotations["kubenclave.dev/driver"] == "in-kernel"
    assert condition(node) == {
        "type": "SGXReady",
        "status": "True",
        "reason": "EPCPublished",
        "message": "96Mi of EPC, driver in-kernel",
        "lastHeartbeatTime": NOW,
        "lastTransitionTime": NOW,
    }


def test_a_simulated_node_says_so_loudly():
    node = publish(facts(simulated(64)), new_node())
    assert node["metadata"]["labels"]["kubenclave.dev/simulated"] == "true"
    assert condition(node)["message"].startswith("SIMULATED, nothing is protected by hardware")
    assert json.loads(node["metadata"]["annotations"]["kubenclave.dev/epc-numa"]) == {"unknown": 64 * MIB}
    (event,) = events(new_node(), node, facts(simulated(64)), Wishes())
    assert (event.reason, event.warning) == ("EPCPublished", False)
    assert "SIMULATED" in event.message


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (facts(Inventory()), "NoEnclaveDevice", "node.no-enclave-device"),
        (facts(hardware()), "NoEPC", "node.no-epc"),
        (facts(hardware(64), held=False), "PluginNotHeld", "node.plugin-not-held"),
        (facts(Inventory(), UnreachableError("no CPU", code="simcpu.gone")), "PlatformUnreadable", "simcpu.gone"),
    ],
)
def test_epc_is_withdrawn_by_writing_zero(state, reason, code):
    before = publish(facts(hardware(64)), new_node())
    after = publish(state, before, now=LATER)
    assert (after["status"]["capacity"][EPC], after["status"]["allocatable"][EPC]) == ("0", "0")
    assert after["metadata"]["labels"] == {"app": "x"}
    assert "kubenclave.dev/epc-numa" not in after["metadata"]["annotations"]
    told = condition(after)
    assert (told["status"], told["reason"], told["lastTransitionTime"]) == ("False", reason, LATER)
    assert f"[{code}]" in told["message"]
    (event,) = events(before, after, state, Wishes())
    assert (event.reason, event.warning) == ("EPCWithdrawn", True)
    assert f"[{code}]" in event.message


def test_epc_stays_when_what_is_missing_may_be_back_in_a_moment_but_no_pod_is_sent_meanwhile():
    before = publish(facts(hardware(64)), new_node())
    before["status"]["allocatable"] |= {ENCLAVE: "110", "sgx.intel.com/provision": "0"}
    after = publish(facts(Inventory(), lasts=False, held=False), before, now=LATER)
    assert (after["status"]["capacity"], after["metadata"]) == (before["status"]["capacity"], before["metadata"])
    assert after["status"]["allocatable"] == before["status"]["allocatable"] | {ENCLAVE: "0"}
    assert (condition(after)["status"], condition(after)["reason"]) == ("False", "NoEnclaveDevice")
    assert list(events(before, after, facts(Inventory(), lasts=False), Wishes())) == []


def test_nothing_changes_while_the_kubelet_is_between_two_lives():
    before = publish(facts(hardware(64)), new_node())
    assert next_patch(facts(hardware(64), held=None), Wishes(), before, LATER) is None


def test_a_new_node_waits_for_the_kubelet():
    node = publish(facts(hardware(64), held=None), new_node())
    assert EPC not in node["status"]["capacity"]
    assert condition(node)["status"] == "Unknown"
    assert "kubenclave.dev/sgx" not in node["metadata"]["labels"]


def test_labels_of_others_stay_theirs():
    node = new_node()
    node["metadata"]["labels"]["intel.feature.node.kubernetes.io/sgx"] = "true"
    node = publish(facts(hardware(64)), node)
    assert node["metadata"]["annotations"]["kubenclave.dev/added-labels"] == "sgx.intel.com/capable"
    after = publish(facts(Inventory()), node)
    assert after["metadata"]["labels"] == {"app": "x", "intel.feature.node.kubernetes.io/sgx": "true"}
    assert "kubenclave.dev/added-labels" not in after["metadata"]["annotations"]


def test_the_condition_keeps_since_when_it_holds():
    node = publish(facts(hardware(64)), new_node())
    node = publish(facts(hardware(32)), node, now=LATER)
    assert (condition(node)["lastHeartbeatTime"], condition(node)["lastTransitionTime"]) == (LATER, NOW)


def test_devices_mode_leaves_epc_to_the_plugin_and_nothing_of_the_other_ledger():
    wishes = Wishes(EpcMode.DEVICES)
    assert EPC not in publish(facts(hardware(64)), new_node(), wishes)["status"]["capacity"]
    node = publish(facts(hardware(64)), new_node())
    node = publish(facts(hardware(64)), node, wishes)
    assert node["status"]["capacity"][EPC] == "0"
    assert node["metadata"]["labels"]["kubenclave.dev/epc-mode"] == "devices"


def test_aesm_is_told_and_missed_only_where_it_is_awaited():
    ready = publish(facts(hardware(64), aesm=True, await_aesm=True), new_node())
    assert ready["metadata"]["annotations"]["kubenclave.dev/aesm"] == "ready"
    assert condition(ready)["message"] == "64Mi of EPC, driver in-kernel, AESM ready"
    state = facts(hardware(64), aesm=False, await_aesm=True)
    away = publish(state, ready)
    assert away["status"]["capacity"][EPC] == str(64 * MIB), "enclaves run without AESM too"
    assert (condition(away)["reason"], condition(away)["status"]) == ("AESMAbsent", "False")
    assert [event.reason for event in events(ready, away, state, Wishes())] == ["AESMAbsent"]
    assert [event.reason for event in events(away, ready, state, Wishes())] == ["AESMReady"]
    assert condition(publish(facts(hardware(64), aesm=False), ready))["status"] == "True"


def tainted(**allocatable: str) -> dict[str, Any]:
    taints = [
        {"key": "a", "effect": "NoSchedule"},
        {"key": TAINT, "effect": "NoSchedule"},
        {"key": "b", "effect": "NoExecute"},
        {"key": TAINT, "effect": "NoExecute"},
    ]
    node = new_node(taints=taints)
    node["status"]["allocatable"] |= {name.replace("_", ENCLAVE): value for name, value in allocatable.items()}
    return node


def keys(node: dict[str, Any]) -> list[str]:
    return [taint["key"] for taint in node["spec"]["taints"]]


def test_the_startup_taint_goes_when_everything_works_and_not_before():
    wishes = Wishes(startup_taint=TAINT)
    assert TAINT in keys(publish(facts(Inventory()), tainted(_="110"), wishes))
    assert TAINT in keys(publish(facts(hardware(64), aesm=False, await_aesm=True), tainted(_="110"), wishes))
    waiting = publish(facts(hardware(64)), tainted(), wishes)
    assert TAINT in keys(waiting), "the kubelet does not offer devices yet"
    assert not settled(wishes, waiting)
    ready = publish(facts(hardware(64), aesm=True, await_aesm=True), tainted(_="110"), wishes)
    assert keys(ready) == ["a", "b"]
    assert settled(wishes, ready)
    reasons = [event.reason for event in events(tainted(), ready, facts(hardware(64)), wishes)]
    assert reasons == ["EPCPublished", "StartupTaintRemoved"]
    assert TAINT in keys(publish(facts(hardware(64)), tainted(_="110")))


def test_a_taint_list_that_has_changed_meanwhile_is_left_alone():
    wishes = Wishes(startup_taint=TAINT)
    node = publish(facts(hardware(64)), tainted(), wishes)
    node["status"]["allocatable"][ENCLAVE] = "1"
    patch = next_patch(facts(hardware(64)), wishes, node, NOW)
    assert patch is not None
    node["spec"]["taints"].insert(0, {"key": "new", "effect": "NoSchedule"})
    with pytest.raises(RefusedError):
        patched(node, patch.kind, patch.body, status=patch.status)


def test_foreign_values_are_repaired():
    node = publish(facts(hardware(64)), new_node())
    node["status"]["capacity"][EPC] = "7e20"
    del node["status"]["allocatable"][EPC]
    del node["metadata"]["labels"]["kubenclave.dev/sgx"]
    after = publish(facts(hardware(64)), node)
    assert after["status"]["capacity"][EPC] == after["status"]["allocatable"][EPC] == str(64 * MIB)
    assert after["metadata"]["labels"]["kubenclave.dev/sgx"] == "true"


def test_an_amount_in_other_words_is_left_as_it_is():
    node = publish(facts(hardware(64)), new_node())
    node["status"]["capacity"][EPC] = node["status"]["allocatable"][EPC] = "64Mi"
    assert next_patch(facts(hardware(64)), Wishes(), node, NOW) is None


def test_an_event_is_about_the_node():
    (event,) = events(new_node(), publish(facts(hardware(64)), new_node()), facts(hardware(64)), Wishes())
    made = event_object(event, new_node(), "0011", NOW)
    assert made["metadata"] == {"name": "sgx-1.0011", "namespace": "default"}
    assert made["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "sgx-1", "uid": "uid-of-sgx-1"}
    assert (made["type"], made["reason"]) == ("Normal", "EPCPublished")


inventories = st.one_of(
    st.just(Inventory()),
    st.lists(st.integers(1, 100), max_size=3).map(lambda sizes: hardware(*sizes)),
    st.integers(1, 100).map(simulated),
)
states = st.builds(
    lambda inventory, lasts, held, aesm, awaited: facts(
        inventory, lasts=lasts, held=held, aesm=aesm, await_aesm=awaited
    ),
    inventories,
    st.booleans(),
    st.sampled_from([True, False, None]),
    st.sampled_from([True, False, None]),
    st.booleans(),
)


@given(st.lists(states, min_size=1, max_size=5), st.sampled_from(list(EpcMode)), st.booleans())
def test_every_story_comes_to_rest_at_what_its_last_state_says(story, mode, stopped):
    wishes, node = Wishes(mode, TAINT), tainted(_="5")
    for state in story:
        node = publish(state, node, wishes)
        if stopped:
            last_words = farewell_patch(wishes, NOW)
            node = patched(node, last_words.kind, last_words.body, status=last_words.status)
            node["status"]["allocatable"] |= {ENCLAVE: "110", "sgx.intel.com/provision": "110"}  # as the kubelet does
    last = story[-1]
    node = publish(last, node, wishes)
    if last.usable is False:
        assert node["status"]["capacity"].get(EPC) in ({"0"} if mode is EpcMode.CAPACITY else {"0", None})
        assert set(node["metadata"]["labels"]) == {"app"}
    if last.usable and mode is EpcMode.CAPACITY:
        assert int(node["status"]["allocatable"][EPC]) == last.inventory.epc_bytes
        assert condition(node)["status"] == ("False" if last.problems else "True")
    assert keys(node)[0] == "a"
    assert "b" in keys(node)
    assert node["status"]["capacity"]["cpu"] == "2"
