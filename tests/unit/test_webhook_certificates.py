# SPDX-License-Identifier: Apache-2.0
"""What is issued when; whoever trusts the CAs as told always trusts the leaf that is served."""

import datetime as dt
import itertools

import pytest
from cryptography import x509
from cryptography.x509 import verification

from kubenclave.cluster.webhook.certificates import Credentials, Lifetimes, step
from kubenclave.errors import FormatError

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
NAMES = ["kubenclave-webhook.kubenclave.svc", "kubenclave-webhook.kubenclave.svc.cluster.local"]
LIFETIMES = Lifetimes(dt.timedelta(days=90), dt.timedelta(days=9), dt.timedelta(minutes=2))
DAY = dt.timedelta(days=1)


def trusts(bundle: bytes, leaf: x509.Certificate, now: dt.datetime, name: str = NAMES[0]) -> bool:
    """Tell whether a client that trusts the bundle accepts the leaf for the name."""
    store = verification.Store(x509.load_pem_x509_certificates(bundle))
    verifier = verification.PolicyBuilder().store(store).time(now).build_server_verifier(x509.DNSName(name))
    try:
        verifier.verify(leaf, [])
    except verification.VerificationError:
        return False
    return True


def test_the_first_step_makes_all_there_is():
    held = step(None, NOW, NAMES, LIFETIMES)
    assert all(trusts(held.bundle, held.leaf.certificate, NOW, name) for name in NAMES)
    assert not trusts(held.bundle, held.leaf.certificate, NOW, "kubernetes.default.svc")
    assert step(held, NOW, NAMES, LIFETIMES) is held


def test_a_ca_can_vouch_for_the_webhook_alone():
    held = step(None, NOW, NAMES, LIFETIMES)
    constraints = held.authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [each.value for each in constraints.value.permitted_subtrees or ()] == NAMES


def test_the_leaf_is_renewed_by_the_same_ca():
    held = step(None, NOW, NAMES, LIFETIMES)
    assert step(held, NOW + 5 * DAY, NAMES, LIFETIMES) is held
    renewed = step(held, NOW + 7 * DAY, NAMES, LIFETIMES)
    assert renewed.authority == held.authority
    assert renewed.leaf.ends == NOW + 16 * DAY


def test_a_leaf_for_other_names_is_replaced():
    held = step(None, NOW, ["old.kubenclave.svc"], LIFETIMES)
    assert step(held, NOW, NAMES, LIFETIMES).leaf != held.leaf


def test_the_next_ca_issues_nothing_before_it_is_trusted():
    held = step(None, NOW, NAMES, LIFETIMES)
    now = NOW + 61 * DAY
    held = step(held, now, NAMES, LIFETIMES)
    assert held.successor is not None
    waiting = step(held, now + DAY, NAMES, LIFETIMES)
    assert waiting.authority == held.authority, "nobody has told the API servers yet"


def test_an_ended_ca_is_replaced_at_once():
    held = step(None, NOW, NAMES, LIFETIMES)
    later = NOW + 100 * DAY
    renewed = step(held, later, NAMES, LIFETIMES)
    assert renewed.authority != held.authority
    assert trusts(renewed.bundle, renewed.leaf.certificate, later)


def test_shorter_lives_are_taken_over_in_order():
    held = step(None, NOW, NAMES, LIFETIMES)
    shorter = Lifetimes(dt.timedelta(days=9), dt.timedelta(days=3), dt.timedelta(minutes=2))
    changed = step(held, NOW, NAMES, shorter)
    assert changed.successor is not None
    assert changed.leaf.ends == NOW + 3 * DAY
    assert trusts(held.bundle, changed.leaf.certificate, NOW)


def test_a_leaf_that_ends_with_its_ca_is_not_renewed_in_vain():
    held = step(None, NOW, NAMES, LIFETIMES)
    last = NOW + 89 * DAY
    held = step(held, last, NAMES, LIFETIMES)
    assert held.leaf.ends == held.authority.ends
    assert step(held, last + DAY / 2, NAMES, LIFETIMES) is held


@pytest.mark.parametrize("lag", [dt.timedelta(hours=1), DAY])
def test_through_years_of_steps_old_and_new_trust_each_other(lag):
    """A client that has the bundle of the step before, or a server that has its leaf, is never left out."""
    held, now = step(None, NOW, NAMES, LIFETIMES), NOW
    authorities = set()
    for _ in range(500):
        before = held
        held = step(held, now, NAMES, LIFETIMES)
        for bundle, leaf in itertools.product((before.bundle, held.bundle), (before.leaf, held.leaf)):
            assert trusts(bundle, leaf.certificate, now)
        if held.successor and held.published is None:
            held = Credentials(held.authority, held.leaf, held.successor, published=now, retired=held.retired)
        again = Credentials.from_data({k: v for k, v in held.as_data().items() if v is not None})
        assert again is not None
        assert again.as_data() == held.as_data()
        assert len(held.retired) <= 1
        authorities.add(held.authority.certificate)
        now += lag
    assert len(authorities) == 1 + (500 * lag).days // 60


def test_the_key_of_a_retired_ca_is_forgotten():
    held = step(None, NOW, NAMES, LIFETIMES)
    old = held.authority
    held = step(held, NOW + 61 * DAY, NAMES, LIFETIMES)
    held = Credentials(held.authority, held.leaf, held.successor, NOW + 61 * DAY)
    held = step(held, NOW + 62 * DAY, NAMES, LIFETIMES)
    assert held.retired == (old.certificate,)
    assert old.key_pem not in b"".join(value or b"" for value in held.as_data().values())


@pytest.mark.parametrize(
    "change",
    [
        {"tls.key": b"garbage"},
        {"ca.crt": None},
        {"next-ca.crt": b"x"},
        {"next-ca-published": b"yesterday"},
        {"next-ca-published": b"2026-01-01T00:00:00"},
        {"retired-ca.crt": b"x"},
    ],
)
def test_a_secret_of_somebody_else_is_none(change):
    data = {key: value for key, value in step(None, NOW, NAMES, LIFETIMES).as_data().items() if value is not None}
    with pytest.raises(FormatError) as caught:
        Credentials.from_data({key: value for key, value in {**data, **change}.items() if value is not None})
    assert caught.value.code == "webhook.secret"


def test_a_key_of_another_certificate_is_none():
    one, other = (step(None, NOW, NAMES, LIFETIMES).as_data() for _ in range(2))
    with pytest.raises(FormatError):
        Credentials.from_data({k: v for k, v in {**one, "tls.key": other["tls.key"]}.items() if v is not None})


def test_an_empty_secret_is_no_error():
    assert Credentials.from_data({}) is None
