// Sample handlers: for each language one that responds, a web page, and a webhook receiver, each with an
// input for the first invocation.
import type { Language } from "./making.ts";

export interface Template {
  title: string;
  code: string;
  /** The input of the first invocation: for a page or a webhook, as from a request to its URL. */
  payload: string;
}

const ANSWERS = "Answer a call";
const PAGE = "Web page (give it a URL)";
const WEBHOOK = "Webhook receiver (give it a URL)";
const VISIT = JSON.stringify({ rawPath: "/", queryStringParameters: { name: "Ada" } });
const DELIVERY = JSON.stringify({ body: JSON.stringify({ action: "opened" }) });

/** The first template of each language is the default for a new function. */
export const TEMPLATES: Record<Language, readonly [Template, ...Template[]]> = {
  python: [
    {
      title: ANSWERS,
      code: `def handler(event, context):
    """Runs once for each call. What it returns is the answer.

    event: the payload, parsed if it is JSON,
    else a str; None if it is empty.
    """
    name = event or "world"
    return {"hello": name}
`,
      payload: "",
    },
    {
      title: PAGE,
      code: `import html


def handler(event, context):
    """Answers a request to the function's URL with a page."""
    name = (event.get("queryStringParameters") or {}).get("name", "world")
    return {
        "statusCode": 200,
        "headers": {"content-type": "text/html; charset=utf-8"},
        "body": f"<!doctype html><h1>hello, {html.escape(name)}</h1>",
    }
`,
      payload: VISIT,
    },
    {
      title: WEBHOOK,
      code: `import base64
import json


def handler(event, context):
    """Takes a delivery whose signature the URL has checked."""
    body = event.get("body") or "{}"
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body)
    delivery = json.loads(body)
    return {"statusCode": 202, "body": json.dumps({"received": sorted(delivery)})}
`,
      payload: DELIVERY,
    },
  ],
  node: [
    {
      title: ANSWERS,
      code: `/**
 * Runs once for each call. What it returns is the answer.
 *
 * event: the payload, parsed if it is JSON,
 * else a string; null if it is empty.
 */
export async function handler(event) {
  return { hello: event ?? "world" };
}
`,
      payload: "",
    },
    {
      title: PAGE,
      code:
        `const escaped = (text) => text.replace(/[&<>"']/g, (char) => \`&#\${char.charCodeAt(0)};\`);

/** Responds to a request to the function's URL with a page. */
export async function handler(event) {
  const name = event.queryStringParameters?.name ?? "world";
  return {
    statusCode: 200,
    headers: { "content-type": "text/html; charset=utf-8" },
    body: \`<!doctype html><h1>hello, \${escaped(name)}</h1>\`,
  };
}
`,
      payload: VISIT,
    },
    {
      title: WEBHOOK,
      code: `/** Takes a delivery whose signature the URL has checked. */
export async function handler(event) {
  const body = event.body ?? "{}";
  const delivery = JSON.parse(event.isBase64Encoded ? Buffer.from(body, "base64") : body);
  return { statusCode: 202, body: JSON.stringify({ received: Object.keys(delivery).sort() }) };
}
`,
      payload: DELIVERY,
    },
  ],
  shell: [
    {
      title: ANSWERS,
      code: `# Runs once for each call. Standard input is the payload, what it prints is the answer.
read -r name
echo "hello, \${name:-world}"
`,
      payload: "",
    },
    {
      title: PAGE,
      code: `# Answers a request to the function's URL with a page (CGI/1.1).
printf 'Content-Type: text/html; charset=utf-8\\n\\n'
printf '<!doctype html><h1>hello from %s</h1>\\n' "$(printf %s "\${PATH_INFO:-/}" | tr -d '<>&"')"
`,
      payload: "",
    },
    {
      title: WEBHOOK,
      code: `# Takes a delivery whose signature the URL has checked: its body is standard input.
size=$(wc -c)
printf 'Status: 202 Accepted\\nContent-Type: text/plain\\n\\nreceived %s bytes\\n' "$size"
`,
      payload: '{"action":"opened"}',
    },
  ],
};

/** The template of an unchanged draft; undefined if the draft was changed. */
export function templateOf(
  { language, code, payload }: { language: Language; code: string; payload: string },
): Template | undefined {
  return TEMPLATES[language].find((template) =>
    template.code === code && template.payload === payload
  );
}
