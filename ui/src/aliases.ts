// Descriptions of aliases, and the request body that sets one.
import type { Alias, AliasShare, NewAlias, RollbackRule } from "./wire.ts";

/** The user's input for an alias. `other`: the number of the second version, which gets the share
 * `weight` of the invocations; 0: no second version. Limits of null are not checked.
 */
export interface AliasDraft {
  name: string;
  version: number;
  other: number;
  weight: number;
  rule: { error_rate: number | null; p99_ms: number | null; within_s: number };
}

const WEIGHT = 0.1; // for a new second version
const WATCHED = { error_rate: 0.05, p99_ms: null, within_s: 300 };
const UNWATCHED = { error_rate: null, p99_ms: null, within_s: 300 };

/** A new alias for the current version. */
export function newDraft(version: number): AliasDraft {
  return { name: "", version, other: 0, weight: WEIGHT, rule: { ...WATCHED } };
}

export function draftOf({ name, version, also, rollback_on: rule }: Alias): AliasDraft {
  return {
    name,
    version,
    other: also?.version ?? 0,
    weight: also?.weight ?? WEIGHT,
    rule: rule
      ? {
        error_rate: rule.error_rate ?? null,
        p99_ms: rule.p99_ms ?? null,
        within_s: rule.within_s ?? 300,
      }
      : { ...(also ? UNWATCHED : WATCHED) },
  };
}

/** The request body that sets the alias. */
export function bodyOf({ version, other, weight, rule }: AliasDraft): NewAlias {
  const also = other === 0 ? null : { version: other, weight };
  const isWatched = rule.error_rate !== null || rule.p99_ms !== null;
  return { version, also, rollback_on: also && isWatched ? rule : null };
}

/** The request body that restores an alias. */
export function sameAgain(
  { version, also, rollback_on: rule = null, default: isDefault = false }: Alias,
): NewAlias {
  return { version, also, rollback_on: rule, default: isDefault };
}

/** A weight in percent, without rounding errors. */
export const percentOf = (weight: number): number => Math.round(weight * 1000) / 10;

/** The versions that the alias sends invocations to, each with its share in percent, the main one first. */
export function shares({ version, also }: { version: number; also: AliasShare | null }): {
  version: number;
  percent: number;
}[] {
  if (also === null) return [{ version, percent: 100 }];
  const other = percentOf(also.weight);
  return [{ version, percent: percentOf(1 - also.weight) }, {
    version: also.version,
    percent: other,
  }];
}

/** "v2 75 %, v1 25 %" */
export function sharesSaid(target: Parameters<typeof shares>[0]): string {
  return shares(target).map(({ version, percent }) =>
    percent === 100 ? `v${version}` : `v${version} ${percent} %`
  ).join(", ");
}

/** "v1 (live)": the versions that run invocations, if the default alias names other versions than
 * the current one.
 */
export function elsewhereSaid(
  { current_version, default_alias: alias }: {
    current_version: number;
    default_alias?: Alias;
  },
): string {
  const said = alias ? sharesSaid(alias) : "";
  return alias && said !== `v${current_version}` ? `${said} (${alias.name})` : "";
}

/** The versions that run invocations without an explicit version. */
export function servingVersions({ current_version, default_alias: alias }: {
  current_version: number;
  default_alias?: Alias;
}): number[] {
  return alias ? shares(alias).map(({ version }) => version) : [current_version];
}

/** "Version 5 of f serves.", or a sentence that invocations run on other versions. */
export function madeCurrentSaid(
  fn: { name: string; current_version: number; default_alias?: Alias },
): string {
  const elsewhere = elsewhereSaid(fn), version = `Version ${fn.current_version} of ${fn.name}`;
  return elsewhere ? `${version} is current. Calls run on ${elsewhere}.` : `${version} serves.`;
}

/** The choices of versions for an invocation: each as a query parameter and in words. The first is
 * the default.
 */
export function targetsOf(
  aliases: readonly Alias[],
  versions: readonly number[],
  serving: number,
): (readonly [target: string, said: string])[] {
  const others = versions.filter((version) => version !== serving);
  const byDefault = aliases.find((alias) => alias.default);
  return [
    ["", byDefault ? `what serves: ${sharesSaid(byDefault)}` : `what serves: v${serving}`],
    ...aliases.map((alias) =>
      [`alias=${alias.name}`, `alias ${alias.name}: ${sharesSaid(alias)}`] as const
    ),
    ...others.map((version) => [`version=${version}`, `version ${version}`] as const),
  ];
}

/** "version 2", "alias live" */
export const targetSaid = (target: string): string =>
  target === "" ? "what serves" : target.replace("=", " ");

/** The label beside a version: the aliases that name it, with the version's share if there are
 * two.
 */
export function namesOf(all: readonly Alias[], version: number): string[] {
  return all.flatMap((alias) =>
    shares(alias).filter((share) => share.version === version).map(({ percent }) =>
      percent === 100 ? alias.name : `${alias.name} ${percent} %`
    )
  );
}

/** The rule for rolling back the second version, in words. */
export function ruleSaid({ error_rate: rate, p99_ms: p99, within_s: within = 300 }: RollbackRule) {
  const when = [
    rate != null && `more than ${percentOf(rate)} % of its calls fail`,
    p99 != null && `its p99 is above ${p99} ms`,
  ].filter(Boolean).join(", or ");
  return `taken back if ${when}; watched for ${within} s`;
}
