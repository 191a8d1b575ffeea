# SPDX-License-Identifier: Apache-2.0
"""Keys of the SIMULATED CPU: what EGETKEY puts into each (SDM vol. 3D, 38.4, EGETKEY, table of key dependencies).

The SDM leaves the derivation itself to the CPU. Here a key is the AES-128-CMAC of a structure under a base key, with
the structures of the simulation mode of Intel's SDK. Its base keys are public constants; ours come from the fuses of
the platform, so that two platforms have no key in common.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Self

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from kubenclave.platform.simulated.faults import CpuError, general_protection
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.layout import Layout
from kubenclave.sgx.report import TargetInfo
from kubenclave.wire.simcpu import Code

FUSE_SIZE: Final = 16
_FORCED: Final = AttributeFlags.INIT | AttributeFlags.DEBUG
_KSS_POLICY: Final = KeyPolicy.NOISVPRODID | KeyPolicy.CONFIGID | KeyPolicy.ISVFAMILYID | KeyPolicy.ISVEXTPRODID
_ALL_POLICY: Final = sum(policy.value for policy in KeyPolicy)  # the complement of an IntFlag has no unknown bits


def cmac(key: bytes, message: bytes) -> bytes:
    """Return the AES-128-CMAC (RFC 4493), 16 bytes."""
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


@dataclass(frozen=True, slots=True)
class Fuses:
    """What is burnt into one CPU, and the owner's epoch beside it; 16 bytes each.

    On hardware Intel keeps a copy of ``provisioning``, never of ``seal``: so it is here between platform and issuer.
    """

    provisioning: bytes = field(repr=False)
    seal: bytes = field(repr=False)
    owner_epoch: bytes = field(repr=False)

    @property
    def identity(self) -> str:
        """What tells this CPU from others, for everybody to know: 32 hexadecimal digits."""
        return cmac(self.provisioning, b"SIMULATED identity").hex()


@dataclass(frozen=True, slots=True)
class BaseKeys:
    """The keys under which the structures are MACed, one for each KEYNAME, and the owner epoch; 16 bytes each."""

    einittoken: bytes = field(repr=False)
    provision: bytes = field(repr=False)
    provision_seal: bytes = field(repr=False)
    report: bytes = field(repr=False)
    seal: bytes = field(repr=False)
    owner_epoch: bytes = field(repr=False)

    @classmethod
    def from_fuses(cls, fuses: Fuses) -> Self:
        """Return the base keys of a CPU: all but the provisioning key's depend on the seal fuses."""
        both = cmac(fuses.seal, b"SIMULATED seal fuses" + fuses.provisioning)
        return cls(
            einittoken=cmac(both, b"EINITTOKEN"),
            provision=cmac(fuses.provisioning, b"SIMULATED PROVISION"),
            provision_seal=cmac(both, b"PROVISION_SEAL"),
            report=cmac(both, b"REPORT"),
            seal=cmac(both, b"SEAL"),
            owner_epoch=fuses.owner_epoch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secs:
    """What the CPU knows of an initialised enclave; ``attributes`` has INIT set."""

    attributes: Attributes
    misc_select: int = 0
    cet_attributes: int = 0
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int = 0
    isv_svn: int = 0
    config_id: bytes = bytes(64)
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)

    @property
    def kss(self) -> bool:
        """Whether key separation and sharing is on: CONFIGID, CONFIGSVN, family and extended product id count."""
        return bool(self.attributes.flags & AttributeFlags.KSS)


# Offsets as compiled from the SDK's headers. CET stands in bytes that are padding there, and zero without CET.
_REPORT: Final = Layout(
    "REPORT key dependencies",
    192,
    [
        (0, "key_name", "H"),
        (4, "cet_attributes", "B"),
        (8, "attributes", 16),
        (24, "misc_select", "I"),
        (28, "owner_epoch", 16),
        (44, "mr_enclave", 32),
        (76, "cpu_svn", 16),
        (92, "config_svn", "H"),
        (94, "config_id", 64),
        (158, "key_id", 32),
    ],
)
_SEAL: Final = Layout(
    "SEAL key dependencies",
    280,
    [
        (0, "key_name", "H"),
        (2, "key_policy", "H"),
        (4, "cet_attributes", "B"),
        (5, "cet_attributes_mask", "B"),
        (8, "attributes", 16),
        (24, "attribute_mask", 16),
        (40, "misc_select", "I"),
        (44, "misc_mask", "I"),
        (48, "owner_epoch", 16),
        (64, "cpu_svn", 16),
        (80, "isv_svn", "H"),
        (82, "isv_prod_id", "H"),
        (84, "config_svn", "H"),
        (86, "config_id", 64),
        (150, "isv_family_id", 16),
        (166, "isv_ext_prod_id", 16),
        (182, "mr_enclave", 32),
        (214, "mr_signer", 32),
        (246, "key_id", 32),
    ],
)
_PROVISION: Final = Layout(
    "PROVISION key dependencies",
    104,
    [
        (0, "key_name", "H"),
        (4, "cet_attributes", "B"),
        (5, "cet_attributes_mask", "B"),
        (8, "attributes", 16),
        (24, "attribute_mask", 16),
        (40, "misc_select", "I"),
        (44, "misc_mask", "I"),
        (48, "cpu_svn", 16),
        (64, "isv_svn", "H"),
        (66, "isv_prod_id", "H"),
        (68, "mr_signer", 32),
    ],
)
_PROVISION_SEAL: Final = Layout(
    "PROVISION_SEAL key dependencies",
    200,
    [
        (0, "key_name", "H"),
        (2, "key_policy", "H"),
        (4, "cet_attributes", "B"),
        (5, "cet_attributes_mask", "B"),
        (8, "attributes", 16),
        (24, "attribute_mask", 16),
        (40, "misc_select", "I"),
        (44, "misc_mask", "I"),
        (48, "cpu_svn", 16),
        (64, "isv_svn", "H"),
        (66, "isv_prod_id", "H"),
        (68, "config_svn", "H"),
        (70, "config_id", 64),
        (134, "isv_family_id", 16),
        (150, "isv_ext_prod_id", 16),
        (166, "mr_signer", 32),
    ],
)
_EINITTOKEN: Final = Layout(
    "EINITTOKEN key dependencies",
    128,
    [
        (0, "key_name", "H"),
        (4, "cet_attributes", "B"),
        (8, "attributes", 16),
        (24, "misc_select", "I"),
        (28, "owner_epoch", 16),
        (44, "cpu_svn", 16),
        (60, "isv_svn", "H"),
        (62, "isv_prod_id", "H"),
        (64, "mr_signer", 32),
        (96, "key_id", 32),
    ],
)


def get_key(base: BaseKeys, secs: Secs, request: KeyRequest, cpu_svn: bytes) -> bytes:
    """EGETKEY of an enclave on a CPU whose CPUSVN is now ``cpu_svn``: return 16 bytes. Raises CpuError."""
    name = _check(secs, request, cpu_svn)
    if name is KeyName.REPORT:
        target = TargetInfo(
            mr_enclave=secs.mr_enclave,
            attributes=secs.attributes,
            cet_attributes=secs.cet_attributes,
            config_svn=secs.config_svn,
            misc_select=secs.misc_select,
            config_id=secs.config_id,
        )
        return report_key(base, target, request.key_id, cpu_svn)
    layout, key = {
        KeyName.EINITTOKEN: (_EINITTOKEN, base.einittoken),
        KeyName.PROVISION: (_PROVISION, base.provision),
        KeyName.PROVISION_SEAL: (_PROVISION_SEAL, base.provision_seal),
        KeyName.SEAL: (_SEAL, base.seal),
    }[name]
    return cmac(key, layout.build(_dependencies(base, secs, request)))


def report_key(base: BaseKeys, target: TargetInfo, key_id: bytes, cpu_svn: bytes) -> bytes:
    """Return the report key of a target, 16 bytes: EREPORT's, and EGETKEY's when the target asks for it."""
    fields: dict[str, Any] = {name: getattr(target, name) for name in ("mr_enclave", "config_svn", "config_id")}
    fields |= {
        "key_name": KeyName.REPORT,
        "cet_attributes": target.cet_attributes,
        "attributes": target.attributes.build(),
        "misc_select": target.misc_select,
        "owner_epoch": base.owner_epoch,
        "cpu_svn": cpu_svn,
        "key_id": key_id,
    }
    return cmac(base.report, _REPORT.build(fields))


def _check(secs: Secs, request: KeyRequest, cpu_svn: bytes) -> KeyName:
    """Refuse what EGETKEY refuses, in its order."""
    if request.key_policy & ~_ALL_POLICY:
        raise general_protection(f"KEYPOLICY {request.key_policy:#x} has undefined bits")
    if not secs.kss and (request.key_policy & _KSS_POLICY or request.config_svn):
        raise general_protection("KEYPOLICY bits 2 to 5 and CONFIGSVN need an enclave with KSS")
    try:
        name = KeyName(request.key_name)
    except ValueError:
        raise CpuError(Code.INVALID_KEYNAME, f"there is no key {request.key_name}") from None
    needed = {
        KeyName.EINITTOKEN: AttributeFlags.EINITTOKEN_KEY,
        KeyName.PROVISION: AttributeFlags.PROVISION_KEY,
        KeyName.PROVISION_SEAL: AttributeFlags.PROVISION_KEY,
    }.get(name)
    if needed is not None and not secs.attributes.flags & needed:
        raise CpuError(Code.INVALID_ATTRIBUTE, f"{name.name} needs an enclave with {needed.name}")
    if name is not KeyName.REPORT:
        _check_svns(secs, request, cpu_svn)
    return name


def _check_svns(secs: Secs, request: KeyRequest, cpu_svn: bytes) -> None:
    if any(asked > now for asked, now in zip(request.cpu_svn, cpu_svn, strict=True)):
        raise CpuError(Code.INVALID_CPUSVN, f"CPUSVN {request.cpu_svn.hex()} is beyond {cpu_svn.hex()}")
    if request.isv_svn > secs.isv_svn:
        raise CpuError(Code.INVALID_ISVSVN, f"ISVSVN {request.isv_svn} is beyond the enclave's {secs.isv_svn}")
    if request.config_svn > secs.config_svn:
        raise CpuError(Code.INVALID_ISVSVN, f"CONFIGSVN {request.config_svn} is beyond the enclave's {secs.config_svn}")


def _dependencies(base: BaseKeys, secs: Secs, request: KeyRequest) -> dict[str, Any]:
    """Return all that a key can depend on; each layout takes what its key does."""
    mask, own, name = request.attribute_mask, secs.attributes, request.key_name
    with_policy = name in (KeyName.SEAL, KeyName.PROVISION_SEAL)
    policy = KeyPolicy(request.key_policy) if with_policy else KeyPolicy(0)
    # INIT and DEBUG count whatever the mask says: a debug enclave never gets the key of a production enclave.
    masked = Attributes((mask.flags | _FORCED) & own.flags, mask.xfrm & own.xfrm)
    return {
        "key_name": name,
        "key_policy": int(policy),
        "cet_attributes": request.cet_attributes_mask & secs.cet_attributes,
        "cet_attributes_mask": request.cet_attributes_mask,
        "attributes": masked.build(),
        "attribute_mask": mask.build(),
        "misc_select": request.misc_mask & secs.misc_select,
        "misc_mask": ~request.misc_mask & 0xFFFFFFFF,
        "owner_epoch": base.owner_epoch,
        "cpu_svn": request.cpu_svn,
        "isv_svn": request.isv_svn,
        "isv_prod_id": 0 if policy & KeyPolicy.NOISVPRODID else secs.isv_prod_id,
        "config_svn": request.config_svn if policy & KeyPolicy.CONFIGID else 0,
        "config_id": secs.config_id if policy & KeyPolicy.CONFIGID else bytes(64),
        "isv_family_id": secs.isv_family_id if policy & KeyPolicy.ISVFAMILYID else bytes(16),
        "isv_ext_prod_id": secs.isv_ext_prod_id if policy & KeyPolicy.ISVEXTPRODID else bytes(16),
        "mr_enclave": secs.mr_enclave if policy & KeyPolicy.MRENCLAVE else bytes(32),
        "mr_signer": secs.mr_signer if name != KeyName.SEAL or policy & KeyPolicy.MRSIGNER else bytes(32),
        "key_id": request.key_id,
    }
