// A program with a session, with the modules of Node alone: `node session.mjs`.
//
// It makes sure that a daemon runs, registers itself, looks its session up, and follows the events of all
// sessions of its user, also when the daemon restarts. SIGTERM ends it. Its session ends with it in any case.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

// In a folder of this user alone: otherwise another user could listen there, and read the token.
const SOCKET = process.env.REAPERD_SOCKET ?? `${process.env.XDG_RUNTIME_DIR}/reaperd/reaperd.sock`;

const token = randomBytes(32).toString('hex');
const asSession = { Authorization: `ClaudeMesh-Session ${token}` };
const session = {
  token,
  session_id: `node-${process.pid}`,
  mesh: 'examples',
  display_name: 'an example in JavaScript',
  pid: process.pid,
  ttl: 'process',
};

/** Sends a request, and returns the response once its head has arrived. */
async function send(method, path, headers = {}, body = undefined) {
  const request = http.request({ socketPath: SOCKET, method, path, headers });
  request.end(body && JSON.stringify(body));
  const [response] = await once(request, 'response');
  return response.setEncoding('utf8');
}

/** Sends a request, and returns the body of the response. */
async function call(...request) {
  const response = await send(...request);
  let text = '';
  for await (const part of response) text += part;
  const body = JSON.parse(text);
  if (response.statusCode === 200) return body;
  throw new Error(`${request[1]}: ${body.code}: ${body.detail}`);
}

/** Starts a daemon unless one answers. Of several that are started at the same time one stays. */
async function ensureDaemon() {
  const answers = () => call('GET', '/v1/version').then(() => true, () => false);
  if (await answers()) return;
  spawn('reaperd', ['daemon'], { detached: true, stdio: 'ignore' }).unref();
  for (let tries = 0; tries < 100; tries += 1) {
    if (await answers()) return;
    await sleep(100);
  }
  throw new Error(`no daemon answers on ${SOCKET}: see reaperd doctor`);
}

async function register() {
  await call('POST', '/v1/sessions/register', {}, session);
  const me = await call('GET', '/v1/sessions/me', asSession);
  console.log(`registered: ${me.session.sessionId}, pid ${me.session.pid}`);
}

/** Reads a stream of events to its end. */
async function follow() {
  // The snapshot is sent if there is no position yet.
  const position = lastId ? { 'Last-Event-ID': lastId } : {};
  const response = await send('GET', '/v1/events?snapshot=1', position);
  if (response.statusCode !== 200) throw new Error(`events: status ${response.statusCode}`);
  console.log(lastId ? 'following again' : 'following');
  let rest = '';
  for await (const part of response) {
    const frames = (rest + part).split('\n\n');
    rest = frames.pop();
    for (const frame of frames) {
      const field = (name) => new RegExp(`^${name}: (.*)$`, 'm').exec(frame)?.[1];
      // The others are comments, and the time to wait before a new stream: a second.
      if (field('event')) await handle(field('event'), JSON.parse(field('data')));
      lastId = field('id') ?? lastId;
    }
  }
}

async function handle(event, data) {
  const id = data.session?.sessionId;
  if (event === 'session_registered') console.log(`began: ${id}`);
  if (event === 'session_deregistered') console.log(`ended: ${id}, ${data.cause}`);
  if (event === 'gap') console.log('gap: events are missing, a snapshot follows');
  if (event === 'snapshot') {
    console.log(`live: ${data.sessions.length}`);
    // A daemon that was started anew has no sessions.
    if (!data.sessions.some(({ sessionId }) => sessionId === session.session_id)) await register();
  }
}

process.once('SIGTERM', async () => {
  await call('DELETE', '/v1/sessions/me', asSession).catch(() => {});
  process.exit();
});

let lastId;
for (;;) {
  await ensureDaemon();
  // A stream that ends, or that is cut off, is opened again behind the last event.
  await follow().catch((error) => {
    // Only errors of the system have such a code.
    if (!error.code) throw error;
    console.log(`cut off: ${error.message}`);
  });
  await sleep(1000);
}
