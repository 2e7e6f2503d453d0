// Finds environment values that look like secrets, which are masked until the user reveals them.
// The command line has the same rules; the generated wire.ts contains them.
import { MASK, SECRET_NAME, SECRET_VALUE } from "./wire.ts";

const NAME = new RegExp(SECRET_NAME), VALUE = new RegExp(SECRET_VALUE, "i");

export function looksSecret(name: string, value: string): boolean {
  if (value === "" || value === MASK) return false;
  return NAME.test(name.replace(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase()) || VALUE.test(value);
}

/** The variables, with *** in place of values that look like secrets. */
export function masked(variables: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(variables).map((
      [name, value],
    ) => [name, looksSecret(name, value) ? MASK : value]),
  );
}
