// Binary data in hexadecimal, from its first byte.
import { send } from "../../api.ts";
import { dump } from "../../hex.ts";
import { html } from "../../html.ts";
import { useFetched, Waiting } from "../lists/fetched.ts";
import { bytes as size } from "./format.ts";
import { Notice } from "../lists/notice.ts";

const SHOWN_BYTES = 16 * 1024;

/** `total`: the size of the data, of which these are the first bytes. */
export function Hex({ of, total = of.length, label }: {
  of: Uint8Array;
  total?: number;
  label: string;
}) {
  return html`
    <div
      class="hex"><pre class="output tall" tabindex="0" role="region" aria-label=${`${label} in hexadecimal`}>${dump(
        of.subarray(0, SHOWN_BYTES),
      )}</pre>${total > SHOWN_BYTES &&
        html`<p class="inside muted small">The first ${size(SHOWN_BYTES)} of ${
          size(total)
        }.</p>`}</div>
  `;
}

/** The exact bytes that an invocation wrote to a stream. `path`: the path of the invocation. */
export function HexOutput({ path, stream, label }: {
  path: string;
  stream: "stdout" | "stderr";
  label: string;
}) {
  const { value, problem, again } = useFetched(async (signal) => {
    const headers = { Range: `bytes=0-${SHOWN_BYTES - 1}` };
    const response = await send("GET", `${path}/output`, { query: { stream }, headers, signal });
    const first = new Uint8Array(await response.arrayBuffer());
    const total = /\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
    return { first, total: total === undefined ? first.length : Number(total) };
  }, [path, stream]);
  const found = value.value;
  if (problem.value) return html`<${Notice} of=${problem.value} onRetry=${again} />`;
  return found
    ? html`<${Hex} of=${found.first} total=${found.total} label=${label} />`
    : html`<${Waiting} />`;
}
