// What a handler raised, read out of what it wrote to its standard error: it says more than the exit code
// that the server's message has.
import { send } from "./api.ts";

const TRACEBACK = "Traceback (most recent call last):\n";
const EXCEPTION = /^[A-Za-z_][\w.]*(?:: |$)/;
const NODE_FRAME = /^ {4}at .*?([^/\s():]+):(\d+)(?::\d+)?\)?(?: \{)?$/;
const FRAME = /^ {2}File "([^"\n]*)", line (\d+)/;
const OWN = "/app/";
const SAID_CHARACTERS = 120;
const READ_CHARACTERS = 1_000; // of a line
const EXITED = /^the handler exited with code/;

const linesOf = (text: string): string[] =>
  text.split("\n").map((line) => line.slice(0, READ_CHARACTERS));

const cut = (text: string): string =>
  text.length <= SAID_CHARACTERS ? text : `${text.slice(0, SAID_CHARACTERS)}…`;

const placed = (said: string, file: string | undefined, line: string | undefined): string =>
  file ? `${cut(said)} (${cut(file.split("/").pop() ?? "")}, line ${line})` : cut(said);

/** "ValueError: no such name (main.py, line 5)", of the last traceback of Python or stack of Node; null
 * where there is none.
 */
export function raisedIn(stderr: string): string | null {
  return raisedInPython(stderr) ?? raisedInNode(stderr);
}

function raisedInPython(stderr: string): string | null {
  const at = stderr.lastIndexOf(TRACEBACK);
  if (at < 0) return null;
  const lines = linesOf(stderr.slice(at + TRACEBACK.length));
  const end = lines.findIndex((line) => EXCEPTION.test(line));
  const said = lines[end];
  if (said === undefined) return null;
  const frames = lines.slice(0, end).map((line) => FRAME.exec(line)).filter((one) => one !== null);
  const frame = frames.findLast((one) => one[1]?.startsWith(OWN)) ?? frames.at(-1);
  return placed(said, frame?.[1], frame?.[2]);
}

function raisedInNode(stderr: string): string | null {
  const lines = linesOf(stderr);
  const last = lines.findLastIndex((line) => NODE_FRAME.test(line));
  let first = last;
  while (first > 0 && NODE_FRAME.test(lines[first - 1] ?? "")) first--;
  const said = lines[first - 1];
  if (said === undefined || !EXCEPTION.test(said)) return null;
  const frame = NODE_FRAME.exec(lines[first] ?? "");
  return placed(said, frame?.[1], frame?.[2]);
}

/** Whether a message says nothing but the exit code. */
export function isExit(message: string | null): boolean {
  return message !== null && EXITED.test(message);
}

/** What is said of a call's end: what its handler raised, where it did; else the server's message. */
export function endOf(
  { error_message: message, stderr }: { error_message: string | null; stderr: string },
): string | null {
  return (isExit(message) ? raisedIn(stderr) : null) ?? message;
}

const TAIL_BYTES = 16_384, KEPT = 1_000;
const known = new Map<string, Promise<string | null>>(); // what a call wrote never changes

/** What the handler of a call that has ended raised, by the path of the call. It is asked for once. */
export function raisedOf(path: string): Promise<string | null> {
  const found = known.get(path);
  if (found) return found;
  const headers = { Range: `bytes=-${TAIL_BYTES}` };
  const asked = send("GET", `${path}/output`, { query: { stream: "stderr" }, headers })
    .then((response) => response.text()).then(raisedIn, () => null);
  known.set(path, asked);
  const [oldest] = known.keys();
  if (known.size > KEPT && oldest) known.delete(oldest);
  return asked;
}
