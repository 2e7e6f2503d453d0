// Senders of webhooks: a new secret in their format, the place to enter it, and a command line for
// a test delivery.
import { quoted } from "./command.ts";
import type { WebhookRule } from "./wire.ts";

export type Scheme = WebhookRule["scheme"];

export interface Sender {
  title: string;
  /** The headers that the sender adds with its signature. */
  headers: string;
  /** Where to enter the address and the secret. */
  steps: string;
}

export const SENDERS: Record<Scheme, Sender> = {
  standard: {
    title: "Standard Webhooks",
    headers: "webhook-id, webhook-timestamp and webhook-signature",
    steps:
      "In the sender's settings add an endpoint with the address above. Where the sender takes a " +
      "secret, give it this one; where it shows one of its own (whsec_…), paste that here.",
  },
  github: {
    title: "GitHub",
    headers: "X-Hub-Signature-256",
    steps:
      "In the repository: Settings → Webhooks → Add webhook. Paste the address into “Payload URL” " +
      "and the secret into “Secret”, and choose the content type application/json.",
  },
  stripe: {
    title: "Stripe",
    headers: "Stripe-Signature",
    steps:
      "In the Dashboard: Developers → Webhooks → Add destination. Paste the address into “Endpoint " +
      "URL”. Stripe makes the secret: paste its “Signing secret” (whsec_…) here. A generated one is " +
      "good for tests alone.",
  },
};

const RANDOM_BYTES = 32;
const PREFIX = "whsec_";

const hex = (bytes: Uint8Array): string =>
  [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** 32 random bytes in the scheme's format for secrets. */
export function newSecret(scheme: Scheme): string {
  const bytes = crypto.getRandomValues(new Uint8Array(RANDOM_BYTES));
  if (scheme === "github") return hex(bytes);
  return PREFIX + (scheme === "stripe" ? hex(bytes) : btoa(String.fromCharCode(...bytes)));
}

/** The key in a Standard Webhooks secret, in hexadecimal; null if it is invalid. */
function keyOf(secret: string): string | null {
  try {
    return hex(Uint8Array.from(atob(secret.slice(PREFIX.length)), (char) => char.charCodeAt(0)));
  } catch {
    return null;
  }
}

/** A command line that sends a correctly signed delivery; null if the secret is invalid for the scheme. */
export function testDelivery(scheme: Scheme, secret: string, url: string): string | null {
  const key = scheme === "standard" ? keyOf(secret) : null;
  if (scheme === "standard" && key === null) return null;
  const body = `body='{"test":true}'`;
  const send = `curl -i ${quoted(url)} -H 'Content-Type: application/json' --data-binary "$body"`;
  const hmac = `openssl dgst -sha256 -hmac ${quoted(secret)} -r | cut -d' ' -f1`;
  switch (scheme) {
    case "github":
      return `${body}; ${send} -H 'X-GitHub-Event: ping' ` +
        `-H "X-Hub-Signature-256: sha256=$(printf %s "$body" | ${hmac})"`;
    case "stripe":
      return `${body}; t=$(date +%s); ${send} ` +
        `-H "Stripe-Signature: t=$t,v1=$(printf %s "$t.$body" | ${hmac})"`;
    case "standard":
      return `${body}; t=$(date +%s); id=msg_test_$t; ${send} ` +
        `-H "webhook-id: $id" -H "webhook-timestamp: $t" -H "webhook-signature: v1,$(` +
        `printf %s "$id.$t.$body" | openssl dgst -sha256 -mac HMAC -macopt hexkey:${key} -binary | ` +
        `openssl base64 -A)"`;
  }
}
