/** The parameters of a page's address, by their names in its pattern. */
export type PageProps = Record<string, string>;
