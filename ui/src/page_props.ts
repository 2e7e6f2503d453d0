/** The parts of an address that a page gets, by their names in its pattern. */
export type PageProps = Record<string, string>;
