// Compiled Python files, which nobody edits, and which become obsolete when the code changes.

/** Removes compiled files whose source is among the files. A `.pyc` without a source stays. */
export function withoutCompiled<T extends { path: string }>(files: readonly T[]): T[] {
  const paths = new Set(files.map((file) => file.path));
  return files.filter(({ path }) =>
    !/(^|\/)__pycache__\//.test(path) &&
    !(/\.py[co]$/.test(path) && paths.has(path.slice(0, -1)))
  );
}
