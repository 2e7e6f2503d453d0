// The response of a function that is an HTTP server, as it is in the output of its invocation.

const END = "\0".repeat(8);

interface Head {
  statusCode?: unknown;
  headers?: Record<string, string>;
  cookies?: string[];
}

/** Its status, headers and body as text; the output itself if it is no such response. */
export function asResponse(output: string, status: number | undefined): string {
  const end = status === undefined ? -1 : output.indexOf(END);
  if (end < 0) return output;
  try {
    const head = JSON.parse(output.slice(0, end)) as Head;
    if (head.statusCode !== status) return output;
    const headers = Object.entries(head.headers ?? {}).map(([name, value]) => `${name}: ${value}`);
    const cookies = (head.cookies ?? []).map((one) => `set-cookie: ${one}`);
    const lines = [`HTTP ${status}`, ...headers, ...cookies];
    return `${lines.join("\n")}\n\n${output.slice(end + END.length)}`;
  } catch {
    return output;
  }
}
