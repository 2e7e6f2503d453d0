// Runs Node handlers: imports a module once, then calls its function for every invocation.
//
// The guest starts this inside a sandbox; docs/reference/runner-protocol.md describes the protocol.
// It supports Node 18 and newer, and loads nothing that a small handler does not need: every module
// costs start-up time, and memory in every idle instance.
//
// With QUILT_KEEP=1 one process serves all invocations. Otherwise a process serves one invocation;
// then the guest ends it and starts the next process in advance. Node has threads, so it cannot
// fork like the Python runner. Between invocations the process blocks in a read, so timers and
// callbacks of an invocation do not run before the next one.
'use strict';

const fs = require('fs');
const { pathToFileURL } = require('url');
const { inspect } = require('util');

const CONTROL = 3;
const LOG = 2;
const HOME = '/app';
// The name of a function in the format of AWS Lambda; only the last two parts have a meaning here.
const ARN = 'arn:quiltfn:lambda:local:000000000000:function';
const IMPORTER = `${HOME}/.importer.cjs`; // Does not exist: the origin for resolving bare names.
const ENDINGS = ['', '.js', '.mjs', '.cjs', '/index.js', '/index.mjs', '/index.cjs'];
const LINE_MAX_BYTES = 500;
const OURS = /^\s+at .*(?:\/\.runners\/node\.js|node:internal\/|node:diagnostics_channel:)/;

/** The handler cannot run; the message is a sentence. */
class Refused extends Error {}

/** The facts about an invocation that a handler gets in addition to the event. It has all
 * attributes of AWS Lambda's context, so that code and libraries written for Lambda work. */
class Context {
    #deadlineMs;
    clientContext = undefined;
    identity = undefined;
    // Without effect: the result is sent at the handler's end, even if the event loop has work
    // left.
    callbackWaitsForEmptyEventLoop = false;

    constructor(variables) {
        this.invocationId = variables.get('QUILT_INVOCATION_ID') ?? '';
        this.functionId = variables.get('QUILT_FUNCTION_ID') ?? '';
        this.functionName = variables.get('QUILT_FUNCTION_NAME') ?? '';
        this.functionVersion = variables.get('QUILT_FUNCTION_VERSION') ?? '';
        this.memoryLimitInMB = variables.get('QUILT_MEMORY_LIMIT_MB') ?? '';
        this.traceparent = variables.get('TRACEPARENT') ?? null;
        this.#deadlineMs = Number(variables.get('QUILT_DEADLINE_MS') ?? 0);
    }

    /** Milliseconds until the invocation times out, never below 0. */
    remainingMs() {
        return Math.max(0, this.#deadlineMs - Date.now());
    }

    /** Like `remainingMs`, under its name in AWS Lambda. */
    getRemainingTimeInMillis() {
        return this.remainingMs();
    }

    get awsRequestId() {
        return this.invocationId;
    }

    get invokedFunctionArn() {
        return `${ARN}:${this.functionName}:${this.functionVersion}`;
    }

    get logGroupName() {
        return `/quiltfn/${this.functionName}`;
    }

    get logStreamName() {
        return `${this.functionVersion}/${this.invocationId}`;
    }
}

/** The current activity, for `watchEnds`: `loading` is the module that is imported; `stuck` is
 * called when the event loop has nothing left to do. */
const now = { loading: '', stuck: null };

// Bytes in and out -------------------------------------------------------------------------------

const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** Repeats `act` while it would block: a child that shares a descriptor may have made it
 * non-blocking. */
function patiently(act) {
    for (;;) {
        try {
            return act();
        } catch (error) {
            if (error.code !== 'EAGAIN' && error.code !== 'EINTR') throw error;
            if (error.code === 'EAGAIN') Atomics.wait(sleeper, 0, 0, 1);
        }
    }
}

function write(descriptor, data) {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    let sent = 0;
    while (sent < bytes.length) {
        const from = sent;
        sent += patiently(() => fs.writeSync(descriptor, bytes, from));
    }
}

/** The control socket: lines and bytes in, lines out. */
class Guest {
    #buffer = Buffer.allocUnsafeSlow(16 * 1024);
    #used = 0;

    say(line) {
        write(CONTROL, line + '\n');
    }

    refuse(why) {
        const line = Buffer.from(`refused ${why}`.replace(/\s+/g, ' '));
        const cut = line.subarray(0, LINE_MAX_BYTES).toString();
        this.say(line.length > LINE_MAX_BYTES ? cut.replace(/\ufffd+$/, '') : cut);
    }

    /** Waits for the next invocation: number, whether its variables replace those of the version,
     * variables, payload. */
    hear() {
        let end;
        while ((end = this.#buffer.subarray(0, this.#used).indexOf(10)) < 0) {
            this.#used += this.#read(this.#buffer, this.#used);
        }
        const head = this.#buffer.latin1Slice(0, end).split(' ');
        const [variablesSize, payloadSize] = [Number(head[4]), Number(head[5])];
        const body = this.#take(end + 1, variablesSize + Math.max(0, payloadSize));
        return {
            number: head[1],
            replaces: head[3] === 'all',
            variables: variablesOf(body.utf8Slice(0, variablesSize)),
            payload: payloadSize < 0 ? null : body.subarray(variablesSize),
        };
    }

    /** Waits until the guest ends this process. */
    rest() {
        for (;;) this.#read(this.#buffer, 0);
    }

    /** The `size` bytes from `from` on, after a line; they are valid until the next invocation. */
    #take(from, size) {
        const have = Math.min(size, this.#used - from);
        if (from + size <= this.#buffer.length) {
            let used = this.#used;
            while (used < from + size) used += this.#read(this.#buffer, used);
            this.#used = 0;
            return this.#buffer.subarray(from, from + size);
        }
        const body = Buffer.allocUnsafeSlow(size);
        this.#buffer.copy(body, 0, from, from + have);
        for (let got = have; got < size; ) got += this.#read(body, got);
        this.#used = 0;
        return body;
    }

    #read(into, from) {
        const got = patiently(() => fs.readSync(CONTROL, into, from, into.length - from, null));
        // The sandbox is ending, and no code of the handler may run any more.
        if (got === 0) {
            process.kill(process.pid, 'SIGKILL');
            process.exit(0); // The signal has no effect on process 1 of a namespace.
        }
        return got;
    }
}

function variablesOf(text) {
    const found = new Map();
    for (const one of text.split('\0')) {
        const mark = one.indexOf('=');
        if (mark > 0) found.set(one.slice(0, mark), one.slice(mark + 1));
    }
    return found;
}

// The streams ------------------------------------------------------------------------------------

/** Moves the descriptor of results away from 1, so that printed output, also of children, goes to
 * the log. Returns the new descriptor. */
function moveResult() {
    const resultFd = fs.openSync('/proc/self/fd/1', 'w');
    fs.closeSync(1);
    fs.openSync('/proc/self/fd/2', 'w'); // The lowest free descriptor: 1.
    return resultFd;
}

/** Makes process.stdout and process.stderr write synchronously, so that output is in order and
 * process.exit() loses none of it. */
function printToLog() {
    for (const [name, descriptor] of [['stdout', 1], ['stderr', LOG]]) {
        let stream = null;
        const get = () => (stream ??= logStream(descriptor));
        Object.defineProperty(process, name, { configurable: true, enumerable: true, get });
    }
}

function logStream(descriptor) {
    const { Writable } = require('stream');
    const stream = new Writable({
        decodeStrings: false,
        write(chunk, encoding, done) {
            write(LOG, typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk);
            done();
        },
        // The log stays open.
        destroy(error, done) {
            done(error);
        },
    });
    return Object.assign(stream, { fd: descriptor, _type: 'pipe', _isStdio: true });
}

/** Prints the error as Node itself would. */
function show(error) {
    write(LOG, (error instanceof Error ? '' : 'Uncaught ') + cleaned(inspect(error)) + '\n');
}

/** Removes the frames of this runner and of Node from a stack. */
function cleaned(stack) {
    const kept = [];
    for (const line of stack.split('\n')) {
        if (!OURS.test(line)) kept.push(line);
        // The list of an error's properties begins after its last frame.
        else if (line.endsWith(' {') && kept.length > 0) kept[kept.length - 1] += ' {';
    }
    return kept.join('\n');
}

// The handler ------------------------------------------------------------------------------------

/** Imports the function called `name`. Rejects with `Refused`. */
async function load(name) {
    const mark = name.includes(':') ? name.lastIndexOf(':') : name.lastIndexOf('.');
    const [moduleName, exported] = [name.slice(0, mark), name.slice(mark + 1)];
    now.loading = moduleName;
    const exports = await imported(moduleName);
    // A module that is not an ES module is its own default export.
    const found = [exports, exports.default, exports.default?.default]
        .map((one) => one?.[exported])
        .find((one) => one !== undefined);
    if (found === undefined) {
        const told = functionsOf(exports).slice(0, 10).join(', ') || 'none';
        throw new Refused(
            `module ${moduleName} has no ${exported}; the functions that it exports: ${told}`,
        );
    }
    if (typeof found !== 'function') {
        throw new Refused(`${name} is of type ${typeof found}, not a function`);
    }
    // Functions of Node's modules would take the context for an option.
    return isBuiltIn(moduleName) ? (event) => found(event) : found;
}

function functionsOf(exports) {
    const isOne = (name) => typeof exports[name] === 'function' && name !== 'module.exports';
    return Object.keys(exports).filter(isOne);
}

async function imported(name) {
    const file = fileOf(name);
    try {
        return await (file === null ? importFromHome(name) : import(pathToFileURL(file).href));
    } catch (error) {
        if (file === null && String(error?.message).includes(`imported from ${IMPORTER}`)) {
            const isEmpty = !fs.existsSync(HOME) || fs.readdirSync(HOME).length === 0;
            throw new Refused(`there is no module ${name} in ${isEmpty ? 'the host image' : HOME}`);
        }
        show(error);
        throw new Refused(`importing ${name} failed: ${sentence(error, file)}`);
    }
}

/** Describes an error and its position, in one line. */
function sentence(error, file) {
    if (!(error instanceof Error)) return inspect(error);
    let place = /(\/[^\s():]+:\d+)/.exec(cleaned(error.stack ?? ''));
    if (place === null && error instanceof SyntaxError && file !== null) {
        // For an ES module, only Node itself may know the position.
        const { spawnSync } = require('child_process');
        const checked = spawnSync(process.execPath, ['--check', file], { encoding: 'utf8' });
        place = /(\/[^\s():]+:\d+)/.exec(checked.stderr ?? '');
    }
    return `${error.name}: ${error.message}${place === null ? '' : ` (${place[1]})`}`;
}

/** Finds the function's file of that name, which has priority over packages and Node's modules. */
function fileOf(name) {
    for (const ending of ENDINGS) {
        const path = `${HOME}/${name}${ending}`;
        if (isFile(path)) return path;
    }
    return null;
}

function isFile(path) {
    try {
        return fs.statSync(path).isFile();
    } catch {
        return false;
    }
}

/** Imports a module as in a file of the function: from its node_modules, or from Node's modules. */
function importFromHome(name) {
    const Module = require('module');
    const importer = new Module(IMPORTER);
    importer._compile('module.exports = (name) => import(name)', IMPORTER);
    return importer.exports(name);
}

function isBuiltIn(name) {
    return fileOf(name) === null && require('module').isBuiltin(name);
}

/** Decodes the payload from JSON, or as text if it is not JSON; null if there is no payload. */
function eventOf(payload) {
    if (payload === null) return null;
    const text = payload.utf8Slice(0, payload.length);
    if (!/^[\s"{[\-\dtfn]/.test(text)) return text;
    try {
        return JSON.parse(text);
    } catch {
        return text;
    }
}

/** Calls the handler. Resolves to its return value, or to the value given to its callback. */
function outcome(handler, event, context) {
    if (handler.length < 3) return handler(event, context);
    return new Promise((resolve, reject) => {
        const callback = (error, result) => (error ? reject(error) : resolve(result));
        const returned = handler(event, context, callback);
        if (typeof returned?.then === 'function') resolve(returned);
    });
}

function isIterator(result) {
    if (typeof result !== 'object' || result === null) return false;
    if (typeof result[Symbol.asyncIterator] === 'function') return true;
    return typeof result[Symbol.iterator] === 'function' && typeof result.next === 'function';
}

function isText(result) {
    return typeof result === 'string' || result instanceof Uint8Array;
}

/** Encodes a result: text and bytes as they are, all other types as JSON. */
function encode(result) {
    if (isText(result)) return result;
    let text;
    try {
        text = JSON.stringify(result === undefined ? null : result);
    } catch (error) {
        write(LOG, 'JSON cannot say what the handler returned:\n');
        throw error;
    }
    if (text === undefined) throw new TypeError(`JSON cannot say a ${typeof result}`);
    return text;
}

/** Calls the handler and writes its result to `resultFd`. Resolves to the exit status. */
async function run(handler, call, resultFd) {
    try {
        const event = eventOf(call.payload);
        const result = await outcome(handler, event, new Context(call.variables));
        if (isIterator(result)) {
            for await (const part of result) {
                // In one write, since a client that follows the output gets each write separately.
                write(resultFd, isText(part) ? part : `${encode(part)}\n`);
            }
        }
        // Unhandled rejections are detected now, before the result is written.
        await turn();
        if (!isIterator(result)) write(resultFd, encode(result));
    } catch (error) {
        show(error);
        return 1;
    }
    return exitStatus();
}

/** The exit status that the handler has set, or 0. */
function exitStatus() {
    return Number(process.exitCode ?? 0) & 0xff;
}

/** Waits for one turn of the event loop, in which pending callbacks run. */
function turn() {
    return new Promise((resolve) => setImmediate(resolve));
}

// Serving ----------------------------------------------------------------------------------------

/** Serves all invocations in this process, which keeps its state; child processes are killed. */
async function serveAll(guest, handler, resultFd) {
    const own = { ...process.env };
    for (;;) {
        const call = guest.hear();
        const code = await serveOne(handler, call, resultFd);
        restore(own, call);
        await endChildren();
        guest.say(`done ${call.number} exited ${code}`);
    }
}

/** Serves one invocation. The guest then ends this process and starts another. */
async function serveOnce(guest, handler, resultFd) {
    const call = guest.hear();
    const code = await serveOne(handler, call, resultFd);
    guest.say(`done ${call.number} exited ${code}`);
    guest.rest();
}

async function serveOne(handler, call, resultFd) {
    process.exitCode = undefined;
    if (call.replaces) clear(process.env);
    for (const [name, value] of call.variables) process.env[name] = value;
    // Detects connections that their peers have closed since the start of this process.
    await turn();
    const stuck = new Promise((resolve) => {
        now.stuck = () => {
            write(LOG, 'the handler waits for something that cannot happen any more\n');
            resolve(1);
        };
    });
    const code = await Promise.race([run(handler, call, resultFd), stuck]);
    now.stuck = null;
    return code;
}

function clear(variables) {
    for (const name of Object.keys(variables)) delete variables[name];
}

/** Restores the variables of the process after an invocation. */
function restore(own, call) {
    if (call.replaces) clear(process.env);
    for (const name of call.replaces ? Object.keys(own) : call.variables.keys()) {
        if (name in own) process.env[name] = own[name];
        else delete process.env[name];
    }
}

/** Kills the children that the handler has left, for every thread of this process. */
async function endChildren() {
    // Listing /proc is cheaper than examining each thread, and usually shows no other process.
    const others = fs.readdirSync('/proc').filter((one) => /^\d/.test(one) && one !== '1');
    if (others.length === 1 && Number(others[0]) === process.pid) return;
    // Node reaps the children that it has started, in a turn of its event loop, but not the others.
    for (let patience = 20; patience > 0; ) {
        const left = children();
        if (left.length === 0) return;
        const running = left.filter(isRunning);
        if (running.length === 0) patience -= 1;
        for (const child of running) {
            try {
                process.kill(child, 'SIGKILL');
            } catch {
                // The child has ended by itself.
            }
        }
        await turn();
    }
}

function children() {
    const found = [];
    for (const thread of fs.readdirSync('/proc/self/task')) {
        const list = readIfThere(`/proc/self/task/${thread}/children`).split(' ');
        found.push(...list.filter((one) => one !== '').map(Number));
    }
    return found;
}

function isRunning(child) {
    const status = readIfThere(`/proc/${child}/status`);
    return status !== '' && !/^State:\s+[ZX]/m.test(status);
}

function readIfThere(path) {
    try {
        return fs.readFileSync(path, 'latin1');
    } catch {
        return '';
    }
}

/** Handles ends of the process other than by the handler's result. */
function watchEnds(guest) {
    process.on('uncaughtException', (error) => {
        // If the handler has a listener, the listener decides.
        if (process.listenerCount('uncaughtException') > 1) return;
        show(error);
        if (now.loading !== '') {
            guest.refuse(`importing ${now.loading} failed: ${sentence(error, null)}`);
            now.loading = '';
        }
        process.exit(1);
    });
    process.on('exit', () => {
        if (now.loading === '') return;
        guest.refuse(`importing ${now.loading} ended the process (process.exit)`);
    });
    process.on('beforeExit', () => {
        if (now.stuck !== null) now.stuck();
    });
}

async function main() {
    const guest = new Guest();
    const resultFd = moveResult();
    printToLog();
    const keep = process.env.QUILT_KEEP === '1';
    const name = process.env.QUILT_HANDLER ?? '';
    delete process.env.QUILT_KEEP;
    delete process.env.QUILT_HANDLER;
    watchEnds(guest);
    let handler;
    try {
        now.stuck = () => {
            guest.refuse(`importing ${now.loading} waits for something that cannot happen`);
            now.loading = '';
        };
        handler = await load(name);
        await turn(); // Unhandled rejections of the module make its import fail, too.
        now.loading = '';
        now.stuck = null;
    } catch (error) {
        now.loading = '';
        guest.refuse(error instanceof Refused ? error.message : `${name}: ${error}`);
        process.exit(1);
    }
    // Bytes written to `resultFd` are the result of the invocation.
    guest.say(`result stdout\nready ${keep ? 'keep' : 'once'}`);
    await (keep ? serveAll : serveOnce)(guest, handler, resultFd);
}

main();
