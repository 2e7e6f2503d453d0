// Shows binary data as a hex dump.

const OF_A_ROW = 16;
const PRINTABLE = /^[\x20-\x7e]$/;

// above this share of replacement characters, the output isn't text in another encoding either
const NOT_UTF_8 = "\ufffd", MOSTLY = 0.1;

/** Whether the output had bytes that are not text: NUL, or invalid UTF-8 (already replaced by
 * U+FFFD).
 */
export const hasBytes = (text: string): boolean => text.includes("\0") || text.includes(NOT_UTF_8);

/** Whether to show the output as bytes. */
export const isBinary = (text: string): boolean =>
  text.includes("\0") || text.split(NOT_UTF_8).length - 1 > MOSTLY * text.length;

/** "00000010  48 65 6c 6c 6f 00                                 |Hello.|", 16 bytes per line. */
export function dump(bytes: Uint8Array): string {
  const rows: string[] = [];
  for (let at = 0; at < bytes.length; at += OF_A_ROW) {
    const some = [...bytes.subarray(at, at + OF_A_ROW)];
    const numbers = some.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const letters = some.map((byte) => String.fromCharCode(byte));
    const readable = letters.map((letter) => PRINTABLE.test(letter) ? letter : ".").join("");
    rows.push(
      `${at.toString(16).padStart(8, "0")}  ${numbers.padEnd(3 * OF_A_ROW - 1)}  |${readable}|`,
    );
  }
  return rows.join("\n");
}
