// A minimal document for modules that read the page's address, and a server with canned responses.
// deno-lint-ignore-file no-explicit-any

(globalThis as any).document ??= {
  baseURI: "http://proxy.test/q/ui/",
  hidden: false,
  addEventListener() {},
  removeEventListener() {},
};

export interface Sent {
  method: string;
  path: string;
  headers: Headers;
  body: string | null;
}

/** Responds to the requests of `run` in order, and returns these requests. */
export async function answered(
  answers: [status: number, body: unknown][],
  run: () => Promise<unknown>,
): Promise<Sent[]> {
  const sent: Sent[] = [];
  const real = globalThis.fetch;
  globalThis.fetch = (async (url: URL, init: RequestInit) => {
    const body = init.body == null
      ? null
      : typeof init.body === "string"
      ? init.body
      : `${(init.body as Uint8Array).length} bytes`;
    sent.push({
      method: init.method ?? "GET",
      path: String(url).replace("http://proxy.test/q/", ""),
      headers: new Headers(init.headers),
      body,
    });
    const next = answers.shift();
    if (!next) throw new TypeError("no network");
    await Promise.resolve();
    const [status, value] = next;
    return new Response(value === null ? null : JSON.stringify(value), { status });
  }) as any;
  try {
    await run();
  } finally {
    globalThis.fetch = real;
  }
  return sent;
}
