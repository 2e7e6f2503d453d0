// The present state of one invocation: its record, its timeline, and its output while it runs.
import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, type Refused, urlOf } from "../../api.ts";
import { onEvent } from "../../store.ts";
import { Following } from "../../stream.ts";
import type { Invocation, Timeline } from "../../wire.ts";

type Stream = "stdout" | "stderr";

export interface Call {
  record: Signal<Invocation | null>;
  timeline: Signal<Timeline | null>;
  /** Its output so far. */
  written: Signal<Record<Stream, string>>;
  problem: Signal<Refused | null>;
  again: () => Promise<void>;
}

export const isOver = (status: string): boolean => status !== "queued" && status !== "running";

export const callPath = (functionId: string, id: string): string =>
  `api/functions/${encodeURIComponent(functionId)}/invocations/${encodeURIComponent(id)}`;

const DRAWN_EVERY_MS = 150;
const LOOKED_AT_EVERY_MS = 2_000; // for its timeline, while it runs

/** The data of stdout and stderr events. */
interface Chunk {
  offset: number;
  text?: string;
  base64?: string;
}

/** A handler's output: it arrives in chunks, each with its byte offset. */
export class Written {
  #decoder = new TextDecoder();
  text = "";

  /** `offset` 0 clears the output, since the next attempt's output begins. */
  add(chunk: Chunk): void {
    if (chunk.offset === 0) {
      this.text = "";
      this.#decoder = new TextDecoder();
    }
    this.text += chunk.text ?? this.#decoder.decode(bytesOf(chunk.base64 ?? ""), { stream: true });
  }
}

function bytesOf(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

/** Fetches an invocation and follows it until it is over. */
export function useCall(functionId: string, id: string): Call {
  const record = useSignal<Invocation | null>(null);
  const timeline = useSignal<Timeline | null>(null);
  const written = useSignal<Record<Stream, string>>({ stdout: "", stderr: "" });
  const problem = useSignal<Refused | null>(null);
  const path = callPath(functionId, id);

  function take(found: Invocation) {
    record.value = found;
    if (isOver(found.status)) written.value = { stdout: found.stdout, stderr: found.stderr };
  }
  async function again() {
    try {
      const [found, times] = await Promise.all([
        get<Invocation>(path),
        get<Timeline>(`${path}/timeline`),
      ]);
      take(found);
      timeline.value = times;
      problem.value = null;
    } catch (error) {
      problem.value = error as Refused;
    }
  }
  useEffect(() => {
    record.value = timeline.value = problem.value = null;
    again();
    return onEvent((event) => {
      if (event.invocation_id === id) again();
    });
  }, [path]);
  const status = record.value?.status;
  useEffect(() => {
    if (status === undefined || isOver(status)) return;
    const stop = follow(path, written, (ended) => {
      take(ended);
      again();
    });
    const looking = setInterval(again, LOOKED_AT_EVERY_MS);
    return () => {
      stop();
      clearInterval(looking);
    };
  }, [path, status === undefined || isOver(status)]);
  return { record, timeline, written, problem, again };
}

/** Follows the output of an invocation; `onEnd` gets its record. Returns a function that stops
 * this.
 */
function follow(
  path: string,
  written: Signal<Record<Stream, string>>,
  onEnd: (record: Invocation) => void,
): () => void {
  const streams = { stdout: new Written(), stderr: new Written() };
  let drawing: ReturnType<typeof setTimeout> | undefined;
  function draw() {
    drawing = undefined;
    written.value = { stdout: streams.stdout.text, stderr: streams.stderr.text };
  }
  const following = new Following(urlOf(`${path}/logs`, { follow: true }), {
    onEvent(event, data) {
      if (event === "stdout" || event === "stderr") {
        streams[event].add(data as Chunk);
        drawing ||= setTimeout(draw, DRAWN_EVERY_MS);
      } else if (event === "end") {
        stop();
        onEnd(data as Invocation);
      }
    },
    onState() {},
    onGap() {},
  });
  function stop() {
    clearTimeout(drawing);
    following.end();
  }
  return stop;
}
