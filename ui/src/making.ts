// From code to a function that has been called: each step is one request of the API, and a step that
// was done is not done again when a later one failed.
import { call, get } from "./api.ts";
import { type File, tar } from "./parts/tar.ts";
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
  /** What else is in the image; for a shell the code is no file but the handler. */
  files: readonly File[];
  payload: string;
}

export interface LanguageFacts {
  title: string;
  /** The file that the code is in, and the handler that names what to call in it. */
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

/** The language of a file by its ending; null where it is none of ours. */
export function languageOf(path: string): Language | null {
  for (const [language, { endings }] of Object.entries(LANGUAGES)) {
    if (endings.some((one) => path.endsWith(one))) return language as Language;
  }
  return null;
}

/** A name for a function that is made of a file's name. */
export function nameOf(path: string): string {
  const base = path.split("/").pop()?.replace(/\.\w+$/, "") ?? "";
  return base.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, "")
    .slice(0, 64);
}

/** A name for a runtime that no other runtime has: adding one with a known name would replace it. */
export function freeName(wanted: string, known: ReadonlySet<string>): string {
  const base = wanted.toLowerCase().slice(0, 58);
  for (let n = 1;; n++) {
    const name = n === 1 ? base : `${base}-${n}`;
    if (!known.has(name)) return name;
  }
}

/** The file that code is kept in. CommonJS says `module.exports`, and its file's ending has to. */
export function mainFile(language: Language, code: string): string {
  const isCommon = language === "node" && /\bmodule\.exports\b|^\s*exports\.\w+\s*=/m.test(code);
  return isCommon ? "main.cjs" : LANGUAGES[language].file;
}

export const STEPS = ["image", "runtime", "function", "deploy", "call"] as const;
export type Step = (typeof STEPS)[number];

/** The steps that a draft takes: shell code without files needs no image. */
export function stepsOf({ language, files }: Pick<Draft, "language" | "files">): Step[] {
  const needsImage = language !== "shell" || files.length > 0;
  return STEPS.filter((one) => needsImage || (one !== "image" && one !== "runtime"));
}

/** Makes a function, step by step; after a failure it is called again with a better draft. */
export class Making {
  functionId: string | null = null;
  #runtime: string | null = null;

  /** Goes through the steps. `began`: hears which one is under way. Throws `Refused`. */
  async run(draft: Draft, began: (step: Step) => void): Promise<Invocation> {
    const needsImage = stepsOf(draft).includes("image");
    const runtime = needsImage ? await this.#makeRuntime(draft, began) : draft.language;
    began("function");
    await this.#makeFunction(draft, runtime);
    const path = `api/functions/${this.functionId}`;
    began("deploy");
    const deployed = await call<FunctionShape>("POST", `${path}/deploy`);
    if (deployed.state !== "active") {
      throw new Error(deployed.error_message ?? `The function is ${deployed.state}.`);
    }
    began("call");
    const body = { payload: draft.payload || null };
    return await call<Invocation>("POST", `${path}/invoke`, { body });
  }

  async #makeRuntime(draft: Draft, began: (step: Step) => void): Promise<string> {
    began("image");
    const { language, code, files } = draft;
    const own = { path: mainFile(language, code), content: new TextEncoder().encode(code) };
    const all = language === "shell" ? files : [...files, own];
    const archive = tar(all);
    const image = await call<Image>("POST", "api/runtimes/images", {
      body: archive,
      type: "application/x-tar",
    });
    began("runtime");
    if (this.#runtime === null) {
      const { runtimes } = await get<RuntimeList>("api/runtimes");
      this.#runtime = freeName(draft.name, new Set(runtimes.map((one) => one.name)));
    }
    const body = { name: this.#runtime, kind: language, image: image.digest };
    return (await call<Runtime>("POST", "api/runtimes", { body })).name;
  }

  async #makeFunction({ name, language, code }: Draft, runtime: string): Promise<void> {
    const handler = language === "shell" ? code : LANGUAGES[language].handler;
    const body = { name, handler, runtime };
    if (this.functionId === null) {
      this.functionId =
        (await call<CreatedFunction>("POST", "api/functions", { body })).function_id;
    } else {
      await call("PUT", `api/functions/${this.functionId}`, { body });
    }
  }
}
