# SPDX-License-Identifier: Apache-2.0
"""Key release: a secret goes to an enclave that meets its policy, encrypted to the key that the enclave's quote binds.

Nothing that was relaxed for the verdict counts here, and only evidence made over a challenge of the service's does.
The release is in the log, on disk, before the secret leaves.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.binding import bound_key
from kubenclave.dcap.judgement import Freshness, Judgement
from kubenclave.dcap.relaxations import is_privileged
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import Finding, FormatError, PolicyError, UsageError
from kubenclave.services.attestation.keys.jwk import PRIVATE
from kubenclave.services.attestation.policies.store import StoredPolicy
from kubenclave.services.attestation.release.secrets import SecretInfo, SecretStore
from kubenclave.services.attestation.transparency.entries import accepted_entry, refused_entry
from kubenclave.services.attestation.transparency.log import Receipt, VerdictLog
from kubenclave.sgx.quote import TeeType

ENCRYPTION: Final = "A256GCM"
_CURVES: Final = ("P-256", "P-384", "P-521")
_RSA_BITS: Final = (2048, 8192)
# The root is weighed by the mark of the secret; a floor of the operator's makes a verdict stricter, not laxer.
_NOT_RELAXING: Final = ("root:", "minimum_tcb_evaluation_data_number:")


@dataclass(frozen=True, slots=True)
class Released:
    """A secret on its way: a compact JWE that only the enclave opens, and the receipt of the release."""

    secret: SecretInfo
    jwe: str
    receipt: Receipt


def policy_for(policy: StoredPolicy, version: int | None) -> StoredPolicy:
    """Return the policy in force, which a secret is to be stored for. Raises UsageError ``secret.policy``.

    The one that nobody set is refused: it accepts whatever enclave there is. ``version`` is what the caller counts on.
    """
    if policy.is_default or version not in {None, policy.version}:
        raise UsageError(
            "a secret is stored for a policy that was set",
            code="secret.policy",
            field=policy.tee_type,
            expected="a policy that names the enclave" if version is None else f"version {version} in force",
            found="the built-in one" if policy.is_default else f"version {policy.version}",
            hint="set a policy for this TEE type that names the enclave, then store the secret",
        )
    return policy


async def release(
    secret: SecretInfo, judgement: Judgement, *, jti: str, secrets: SecretStore, log: VerdictLog
) -> Released:
    """Release a secret on a judgement over the policy that is current for it.

    Raises PolicyError with all findings (codes ``release.*``; logged as a refusal), FormatError for a key that cannot
    be encrypted to, and what store and log raise: then nothing was released.
    """
    key = recipient(bound_key(judgement.runtime_data.data if judgement.runtime_data else b"{}"))
    if findings := release_findings(secret, judgement):
        error = PolicyError(findings)
        entry = refused_entry(
            error,
            jti=jti,
            at=judgement.at,
            evidence_digest=judgement.evidence_digest,
            policy=judgement.policy,
            simulated=judgement.verdict.simulated,
            wanted=secret.name,
        )
        await log.append(entry)
        raise error
    wrapped = wrap(secrets.open(secret), key)
    released = {"secret": secret.name, "version": secret.version, "key": key.thumbprint()}
    receipt = await log.append(accepted_entry(judgement, jti=jti, released=released))
    return Released(secret, wrapped, receipt)


def release_findings(secret: SecretInfo, judgement: Judgement) -> list[Finding]:
    """Return everything that speaks against giving this secret on this judgement."""
    verdict, policy = judgement.verdict, judgement.policy
    tee, body = verdict.quote.header.tee_type, verdict.quote.body
    found = "none" if policy is None else policy.digest.hex()
    checks = (
        (judgement.freshness is Freshness.CHALLENGE, "release.not-fresh", "challenge", "one of ours, bound", "none"),
        (policy is not None and policy.digest == secret.policy, "release.policy", "policy", secret.policy.hex(), found),
        ((tee is TeeType.TDX) is (secret.tee_type == "TdxVm"), "release.tee", "TEE", secret.tee_type, tee.name),
        (not judgement.draft, "release.draft", "policy", "one that an administrator set", "a draft of the request's"),
        (not body.debug, "release.debug", "DEBUG attribute", "clear", "set"),
        (not is_privileged(body), "release.privileged", "ATTRIBUTES", "no keys that identify the platform", "some"),
        (
            verdict.tcb_status is TcbStatus.UP_TO_DATE,
            "release.tcb-status",
            "TCB status",
            TcbStatus.UP_TO_DATE.value,
            verdict.tcb_status.value,
        ),
        (
            verdict.simulated is secret.simulated,
            "release.simulated",
            "root",
            "a simulated one" if secret.simulated else "Intel's",
            "a simulated one" if verdict.simulated else "Intel's",
        ),
    )
    findings = [Finding(code, field, wanted, seen) for good, code, field, wanted, seen in checks if not good]
    findings += [
        Finding("release.relaxed", each.partition(":")[0], "nothing relaxed", each)
        for each in judgement.relaxations
        if not each.startswith(_NOT_RELAXING)
    ]
    return findings


def recipient(jwk: Mapping[str, Any]) -> ECKey | RSAKey:
    """Return the public key of a JWK to encrypt to: EC on P-256, P-384 or P-521, or RSA of 2048 bits or more.

    Raises FormatError ``release.bad-key``. A private key is refused as well: it is no secret any more.
    """
    if not PRIVATE.isdisjoint(jwk):
        raise _bad_key("a private key: make another one, this one has been seen")
    members = {name: jwk[name] for name in ("kty", "crv", "x", "y", "n", "e") if name in jwk}
    with contextlib.suppress(JoseError, ValueError, TypeError):
        if members.get("kty") == "EC" and members.get("crv") in _CURVES:
            curve_key = ECKey.import_key(members)
            curve_key.public_key  # noqa: B018 (reads the point, which may be on no curve)
            return curve_key
        if members.get("kty") == "RSA":
            rsa_key = RSAKey.import_key(members)
            if _RSA_BITS[0] <= rsa_key.public_key.key_size <= _RSA_BITS[1]:
                return rsa_key
    raise _bad_key(f"kty {str(jwk.get('kty'))[:20]}, crv {str(jwk.get('crv'))[:20]}")


def wrap(value: bytes, key: ECKey | RSAKey) -> str:
    """Return a secret as compact JWE (RFC 7516), with registered header members only: libraries refuse others."""
    algorithm = "ECDH-ES+A256KW" if isinstance(key, ECKey) else "RSA-OAEP-256"
    header = {"alg": algorithm, "enc": ENCRYPTION, "kid": key.thumbprint()}
    return jwe.encrypt_compact(header, value, key, algorithms=[algorithm, ENCRYPTION])


def _bad_key(found: str) -> FormatError:
    return FormatError(
        "no secret can be encrypted to this key",
        code="release.bad-key",
        field="key",
        expected=f"a public JWK: EC on {', '.join(_CURVES)}, or RSA of {_RSA_BITS[0]} to {_RSA_BITS[1]} bits",
        found=found,
    )
