// Creates a tar archive (ustar, POSIX.1-1988) for an image that is built in the browser.

export interface File {
  /** Its path in the image, such as app.py. */
  path: string;
  content: Uint8Array;
  isExecutable?: boolean;
}

const BLOCK = 512;
const MTIME = 946_684_800; // the same for all files, so that equal files result in an equal archive
const NAME_BYTES = 100, PREFIX_BYTES = 155;

/** The archive's bytes. Throws `RangeError` for a path that is too long for ustar. */
export function tar(files: readonly File[]): Uint8Array<ArrayBuffer> {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  const padded = (size: number) => Math.ceil(size / BLOCK) * BLOCK;
  const size = sorted.reduce((sum, file) => sum + BLOCK + padded(file.content.length), 2 * BLOCK);
  const archive = new Uint8Array(size);
  let at = 0;
  for (const file of sorted) {
    archive.set(header(file), at);
    archive.set(file.content, at + BLOCK);
    at += BLOCK + padded(file.content.length);
  }
  return archive;
}

function header({ path, content, isExecutable }: File): Uint8Array {
  const block = new Uint8Array(BLOCK);
  const put = (text: string, at: number) => block.set(new TextEncoder().encode(text), at);
  const octal = (n: number, digits: number) => n.toString(8).padStart(digits, "0");
  const [prefix, name] = split(path);
  put(name, 0);
  put(`${octal(isExecutable ? 0o755 : 0o644, 7)}\0${octal(0, 7)}\0${octal(0, 7)}\0`, 100);
  put(`${octal(content.length, 11)}\0${octal(MTIME, 11)}\0        0`, 124);
  put("ustar\x0000", 257);
  put(prefix, 345);
  put(`${octal(block.reduce((sum, byte) => sum + byte, 0), 6)}\0 `, 148);
  return block;
}

/** The path, split for ustar's two fields. */
function split(path: string): [prefix: string, name: string] {
  const bytes = (text: string) => new TextEncoder().encode(text).length;
  if (bytes(path) <= NAME_BYTES) return ["", path];
  for (let cut = path.indexOf("/"); cut >= 0; cut = path.indexOf("/", cut + 1)) {
    const [prefix, name] = [path.slice(0, cut), path.slice(cut + 1)];
    if (bytes(prefix) <= PREFIX_BYTES && bytes(name) <= NAME_BYTES && name) return [prefix, name];
  }
  throw new RangeError(`${path}: its path is too long for an archive`);
}
