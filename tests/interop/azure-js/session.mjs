// SPDX-License-Identifier: Apache-2.0
// Runs steps with Microsoft's client and jose, as a user of theirs would. Steps come as JSON on standard input:
// {"endpoint": "...", "token": "...", "steps": [["attestSgx", {"quote": "<base64>"}], ...]}, and for each of them an
// object {"value": ...} or {"error": "..."} goes to standard output, in a list.
import { text } from "node:stream/consumers";
import { AttestationAdministrationClient, AttestationClient } from "@azure/attestation";
import { createRemoteJWKSet, decodeProtectedHeader, jwtVerify } from "jose";

const { endpoint, token, steps } = JSON.parse(await text(process.stdin));
const credential = { getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3_600_000 }) };
const options = { retryOptions: { maxRetries: 0 } };
const client = new AttestationClient(endpoint, { ...options, allowInsecureConnection: endpoint.startsWith("http:") });
const admin = new AttestationAdministrationClient(endpoint, credential, options);
const keys = createRemoteJWKSet(new URL(`${endpoint}/certs`));

const bytes = (base64) => (base64 === undefined ? undefined : Uint8Array.from(Buffer.from(base64, "base64")));
const held = (given) => ({
  runTimeData: bytes(given.runTimeData),
  runTimeJson: bytes(given.runTimeJson),
  initTimeData: bytes(given.initTimeData),
  draftPolicyForAttestation: given.draftPolicy,
  validationOptions: {
    validateToken: true,
    validateExpirationTime: true,
    validateNotBeforeTime: true,
    validateIssuer: true,
    expectedIssuer: given.issuer ?? endpoint,
  },
});
const plain = (result) => JSON.parse(JSON.stringify(result, (_, value) =>
  value instanceof Uint8Array ? Buffer.from(value).toString("base64") : value));
const told = (answer) => ({ body: plain(answer.body), token: answer.token.serialize() });

const actions = {
  attestSgx: async (given) => told(await client.attestSgxEnclave(bytes(given.quote), held(given))),
  attestOpenEnclave: async (given) => told(await client.attestOpenEnclave(bytes(given.report), held(given))),
  metadata: async () => plain(await client.getOpenIdMetadata()),
  signers: async () => plain(await client.getAttestationSigners()),
  getPolicy: async (given) => told(await admin.getPolicy(given.type)),
  setPolicy: async (given) => told(await admin.setPolicy(given.type, given.policy, given.signing)),
  resetPolicy: async (given) => told(await admin.resetPolicy(given.type, given.signing)),
  certificates: async () => told(await admin.getPolicyManagementCertificates()),
  addCertificate: async ({ pem, signing }) =>
    told(await admin.addPolicyManagementCertificate(pem, signing.privateKey, signing.certificate)),
  removeCertificate: async ({ pem, signing }) =>
    told(await admin.removePolicyManagementCertificate(pem, signing.privateKey, signing.certificate)),
  jose: async (given) => {
    const { payload, key } = await jwtVerify(given.token, keys, { issuer: given.issuer ?? endpoint, algorithms: ["RS256"] });
    return { payload, kid: decodeProtectedHeader(given.token).kid, key: key.type };
  },
};

const results = [];
for (const [name, given] of steps) {
  try {
    results.push({ value: await actions[name](given ?? {}) });
  } catch (error) {
    results.push({ error: error.message, code: error.code, status: error.statusCode });
  }
}
process.stdout.write(JSON.stringify(results));
