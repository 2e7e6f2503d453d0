// What Python makes of code: nobody reads or edits it, and beside changed code it is out of date.

/** The files without what was compiled of them. A `.pyc` that is there in place of its source stays. */
export function withoutCompiled<T extends { path: string }>(files: readonly T[]): T[] {
  const paths = new Set(files.map((one) => one.path));
  return files.filter(({ path }) =>
    !/(^|\/)__pycache__\//.test(path) &&
    !(/\.py[co]$/.test(path) && paths.has(path.slice(0, -1)))
  );
}
