// The client's side, as section A8 of the contract describes that of the claudemesh CLI: its requests, its
// token, its probe of the daemon, and its reader of events.

import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';

export const SOCKET = 'daemon.sock';
export const PID_FILE = 'daemon.pid';

// What the CLI waits for an answer, in milliseconds.
const REQUEST_MS = 5_000;
const PROBE_MS = 2_500;
// The CLI's reader opens a stream again so long after its end, and after an error of its request.
const AFTER_END_MS = 1_000;
const AFTER_ERROR_MS = 2_000;

/** Sends a request over the socket in this folder. Rejects if there is no answer in time. */
export function request(folder, target, options = {}) {
  const { method = 'GET', body, token, timeoutMs = REQUEST_MS, agent, headers = {} } = options;
  return new Promise((resolve, reject) => {
    const fields = { Host: 'localhost', Accept: 'application/json', ...headers };
    const text = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body);
    if (text !== undefined) {
      fields['Content-Type'] = 'application/json';
      fields['Content-Length'] = Buffer.byteLength(text);
    }
    if (token) fields.Authorization = `ClaudeMesh-Session ${token}`;
    const socketPath = path.join(folder, SOCKET);
    const sent = http.request({ socketPath, path: target, method, headers: fields, agent }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('error', reject);
      response.on('end', () => {
        const received = Buffer.concat(parts).toString();
        const { statusCode: status, headers: answered } = response;
        try {
          const value = received === '' ? null : JSON.parse(received);
          resolve({ status, headers: answered, body: value, reused: sent.reusedSocket });
        } catch {
          reject(new Error(`not JSON: ${received}`));
        }
      });
    });
    sent.setTimeout(timeoutMs, () => sent.destroy(new Error(`${target}: no answer within ${timeoutMs} ms`)));
    sent.on('error', reject);
    sent.end(text);
  });
}

/** The token of the session that this process belongs to, or null. It is read at every call. */
export function sessionToken(env = process.env) {
  let text = env.CLAUDEMESH_IPC_TOKEN;
  try {
    text ??= fs.readFileSync(env.CLAUDEMESH_IPC_TOKEN_FILE, 'utf8');
  } catch {
    return null;
  }
  return /^[0-9a-f]{64}$/.test(text.trim()) ? text.trim() : null;
}

/**
 * Looks whether a daemon is there: `up`, `down` without a socket file, or `stale` if it does not answer in
 * time. Then the files of the daemon are removed, as the CLI does before it starts another one.
 */
export async function probe(folder, agent) {
  const socket = path.join(folder, SOCKET);
  if (!fs.existsSync(socket)) return 'down';
  try {
    const { status } = await request(folder, '/v1/version', { timeoutMs: PROBE_MS, agent });
    if (status === 200) return 'up';
  } catch {
    // As any other answer.
  }
  for (const name of [SOCKET, PID_FILE]) fs.rmSync(path.join(folder, name), { force: true });
  return 'stale';
}

/** Reads events, and opens the stream again as the CLI does. */
export class Subscriber {
  opened = 0;
  ended = 0;
  failed = 0;
  aborted = 0;
  comments = [];
  events = [];
  #isClosed = false;

  constructor(folder, token) {
    this.folder = folder;
    this.token = token;
    this.#open();
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.timer);
    this.sent.destroy();
  }

  #open() {
    const headers = { Host: 'localhost', Accept: 'text/event-stream' };
    if (this.token) headers.Authorization = `ClaudeMesh-Session ${this.token}`;
    const socketPath = path.join(this.folder, SOCKET);
    this.sent = http.get({ socketPath, path: '/v1/events', headers, agent: false }, (response) => this.#read(response));
    this.sent.on('error', () => {
      if (this.#isClosed) return;
      this.failed += 1;
      this.#openLater(AFTER_ERROR_MS);
    });
  }

  #openLater(ms) {
    this.timer = setTimeout(() => this.#open(), ms);
  }

  #read(response) {
    this.status = response.statusCode;
    this.headers = response.headers;
    this.opened += response.statusCode === 200 ? 1 : 0;
    let rest = '';
    response.setEncoding('utf8');
    response.on('data', (text) => {
      const blocks = (rest + text).split('\n\n');
      rest = blocks.pop();
      blocks.forEach((block) => this.#take(block));
    });
    response.on('end', () => {
      if (this.#isClosed) return;
      this.ended += 1;
      this.#openLater(AFTER_END_MS);
    });
    // The CLI does nothing here. A body that is cut off raises this, and no `end`: the reader stays deaf.
    response.on('error', () => {
      this.aborted += this.#isClosed ? 0 : 1;
    });
  }

  #take(block) {
    const lines = block.split('\n');
    const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
    const name = field('event');
    if (lines[0].startsWith(':')) this.comments.push(lines[0].slice(1).trim());
    if (name) this.events.push({ name, id: field('id'), data: JSON.parse(field('data') ?? 'null') });
  }
}
