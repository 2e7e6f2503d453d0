// Creates, deploys and invokes a function, one API request per step. After a failure, completed
// steps are not repeated.
import { call, get, Refused } from "./api.ts";
import { FunctionFailed } from "./current.ts";
import { type File, tar } from "./parts/resources/tar.ts";
import { functions } from "./store.ts";
import type {
  CreatedFunction,
  Function as FunctionShape,
  Image,
  Invocation,
  Runtime,
  RuntimeList,
} from "./wire.ts";

export type Language = "shell" | "python" | "node";

export interface Draft {
  name: string;
  language: Language;
  code: string;
  /** Additional files in the image. The code of a shell function is its handler, not a file. */
  files: readonly File[];
  payload: string;
}

export interface LanguageFacts {
  title: string;
  /** The file with the code, and the handler, which names the function in that file. */
  file: string;
  handler: string;
  endings: readonly string[];
}

export const LANGUAGES: Record<Language, LanguageFacts> = {
  python: {
    title: "Python",
    file: "main.py",
    handler: "main:handler",
    endings: [".py"],
  },
  node: {
    title: "Node",
    file: "main.mjs",
    handler: "main:handler",
    endings: [".mjs", ".js", ".cjs"],
  },
  shell: {
    title: "Shell",
    file: "main.sh",
    handler: "",
    endings: [".sh", ".bash"],
  },
};

/** The language of a file by its extension; null if it is not supported. */
export function languageOf(path: string): Language | null {
  for (const [language, { endings }] of Object.entries(LANGUAGES)) {
    if (endings.some((ending) => path.endsWith(ending))) return language as Language;
  }
  return null;
}

/** A function name derived from a file's name. */
export function nameOf(path: string): string {
  const base = path.split("/").pop()?.replace(/\.\w+$/, "") ?? "";
  return base.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "")
    .slice(0, 64);
}

/** An unused name for a runtime: adding one under an existing name would replace that runtime. */
export function freeName(wanted: string, known: ReadonlySet<string>): string {
  const base = wanted.toLowerCase().slice(0, 58);
  for (let n = 1;; n++) {
    const name = n === 1 ? base : `${base}-${n}`;
    if (!known.has(name)) return name;
  }
}

/** The file name for the code. Code with `module.exports` needs the extension of CommonJS. */
export function mainFile(language: Language, code: string): string {
  const isCommon = language === "node" && /\bmodule\.exports\b|^\s*exports\.\w+\s*=/m.test(code);
  return isCommon ? "main.cjs" : LANGUAGES[language].file;
}

const STEPS = ["code", "function", "deploy", "call"] as const;
export type Step = (typeof STEPS)[number];

const needsImage = ({ language, files }: Pick<Draft, "language" | "files">): boolean =>
  language !== "shell" || files.length > 0;

/** The steps for a draft: a shell function without files needs no image. */
export function stepsOf(draft: Pick<Draft, "language" | "files">): Step[] {
  return STEPS.filter((step) => needsImage(draft) || step !== "code");
}

const NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/;

/** The error for a name that another function has. */
export class NameTaken extends Error {
  /** The id of the other function. */
  constructor(name: string, readonly id: string) {
    super(`There is a function ${name} already.`);
  }
}

/** Throws an error for a name that can't be used, before anything is created. */
function checkName(name: string): void {
  if (!NAME.test(name)) {
    const expected = "1 to 64 letters, digits, dots, dashes or underscores, and begin and end " +
      "with a letter or digit";
    const details = { field: "name", expected, received: name };
    throw new Refused(422, { error: `name must be ${expected}`, details });
  }
  const taken = [...functions.peek().values()].find((fn) => fn.name === name);
  if (taken) throw new NameTaken(name, taken.id);
}

/** A response, and the version that it is from. */
export interface Answered {
  call: Invocation;
  version: number;
}

/** Creates a function, step by step. After a failure, `run` is called again with a corrected
 * draft.
 */
export class Making {
  functionId: string | null = null;
  /** The name of the created function. */
  name: string | null = null;
  /** The current version. */
  serving: number | null = null;
  #runtime: string | null = null;
  /** The draft of the current version; null if a new version was started since. */
  #deployed: Omit<Draft, "payload"> | null = null;

  /** Whether the current version matches the draft, apart from the payload. */
  isDeployed({ name, language, code, files }: Draft): boolean {
    const of = this.#deployed;
    return of !== null && of.name === name && of.language === language && of.code === code &&
      of.files === files;
  }

  /** Runs the steps. `began`: called with each step when it starts. Throws `Refused`. */
  async run(draft: Draft, began: (step: Step) => void): Promise<Answered> {
    if (this.functionId === null) checkName(draft.name);
    const version = this.isDeployed(draft) && this.serving !== null
      ? this.serving
      : await this.#make(draft, began);
    began("call");
    const body = { payload: draft.payload || null };
    const path = `api/functions/${this.functionId}/invoke`;
    return { call: await call<Invocation>("POST", path, { body }), version };
  }

  /** Creates a version that becomes current; returns its number. */
  async #make(draft: Draft, began: (step: Step) => void): Promise<number> {
    this.#deployed = null;
    const isOwn = needsImage(draft);
    if (isOwn) began("code");
    const runtime = isOwn ? await this.#makeRuntime(draft) : draft.language;
    began("function");
    const updated = await this.#makeFunction(draft, runtime);
    began("deploy");
    const version = await this.#deploy(updated);
    this.#deployed = draft;
    return version;
  }

  /** Makes the newest version current; returns its number. */
  async #deploy(updated: FunctionShape | null): Promise<number> {
    // The update of an active function has already deployed the version, or has kept the previous
    // one.
    const now = updated?.state === "active"
      ? updated
      : await call<FunctionShape>("POST", `api/functions/${this.functionId}/deploy`);
    this.serving = now.state === "active" ? now.current_version : null;
    if (this.serving === null || now.error_message) {
      throw new FunctionFailed(now);
    }
    return this.serving;
  }

  async #makeRuntime({ name, language, code, files }: Draft): Promise<string> {
    const own = { path: mainFile(language, code), content: new TextEncoder().encode(code) };
    const all = language === "shell" ? files : [...files, own];
    const archive = tar(all);
    const image = await call<Image>("POST", "api/runtimes/images", {
      body: archive,
      type: "application/x-tar",
    });
    if (this.#runtime === null) {
      const { runtimes } = await get<RuntimeList>("api/runtimes");
      this.#runtime = freeName(name, new Set(runtimes.map((runtime) => runtime.name)));
    }
    const body = { name: this.#runtime, kind: language, image: image.digest };
    return (await call<Runtime>("POST", "api/runtimes", { body })).name;
  }

  /** null for a new function, which is deployed next */
  async #makeFunction(
    { name, language, code }: Draft,
    runtime: string,
  ): Promise<FunctionShape | null> {
    const handler = language === "shell" ? code : LANGUAGES[language].handler;
    const body = { name, handler, runtime };
    if (this.functionId !== null) {
      const updated = await call<FunctionShape>("PUT", `api/functions/${this.functionId}`, {
        body,
      });
      this.name = updated.name;
      return updated;
    }
    try {
      const made = await call<CreatedFunction>("POST", "api/functions", { body });
      this.functionId = made.function_id;
      this.name = made.name;
      return null;
    } catch (error) {
      // A request without a response may have succeeded.
      if (error instanceof Refused && error.status > 0) await this.#takeBack();
      if (!(error instanceof Refused) || error.code !== "CONFLICT") throw error;
      const path = `api/functions/by-name/${encodeURIComponent(name)}`;
      throw new NameTaken(name, (await get<FunctionShape>(path)).id);
    }
  }

  /** Removes a runtime whose function could not be created. */
  async #takeBack(): Promise<void> {
    const name = this.#runtime;
    this.#runtime = null;
    if (name === null) return;
    await call("DELETE", `api/runtimes/${encodeURIComponent(name)}`).catch(() => {});
  }
}
