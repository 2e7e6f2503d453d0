// The response of a web server function, read from the output of its invocation.

const END = "\0".repeat(8);

interface Head {
  statusCode?: unknown;
  headers?: Record<string, string>;
  cookies?: string[];
}

/** The response's status, headers and body as text. Output that is not a response is returned
 * unchanged.
 */
export function asResponse(output: string, status: number | undefined): string {
  const end = status === undefined ? -1 : output.indexOf(END);
  if (end < 0) return output;
  try {
    const head = JSON.parse(output.slice(0, end)) as Head;
    if (head.statusCode !== status) return output;
    const headers = Object.entries(head.headers ?? {}).map(([name, value]) => `${name}: ${value}`);
    const cookies = (head.cookies ?? []).map((cookie) => `set-cookie: ${cookie}`);
    const lines = [`HTTP ${status}`, ...headers, ...cookies];
    return `${lines.join("\n")}\n\n${output.slice(end + END.length)}`;
  } catch {
    return output;
  }
}
