// The interface over TCP, for clients of the contract that cannot reach the socket: they present the bearer, and
// thus never a session (A1, A2). The port is any free one here, and 47823 in the contract.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import { test } from 'node:test';

import { Daemon, LIMIT_MS, eventually } from './daemon.mjs';

const BEARER_FILE = 'local-token';
const FLAGS = ['--tcp', '127.0.0.1:0'];
const [MISSING, INVALID] = ['missing bearer token', 'invalid bearer token'];

/** What the CLI presents: the content of the file, read at each call. */
function bearer(daemon) {
  return fs.readFileSync(daemon.file(BEARER_FILE), 'utf8').trim();
}

/** Sends a request over TCP, and returns the response once its head has arrived. */
async function open(daemon, target, { method = 'GET', body, headers = {} } = {}) {
  const { body: health } = await daemon.request('/v1/health');
  const [host, port] = health.tcp.split(':');
  const text = body && JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const sent = http.request({ host, port, path: target, method, headers, agent: false, timeout: LIMIT_MS }, resolve);
    sent.on('timeout', () => sent.destroy(new Error(`${target}: no answer`)));
    sent.on('error', reject);
    sent.end(text);
  });
}

async function ask(daemon, target, options) {
  const response = await open(daemon, target, options);
  let text = '';
  for await (const part of response.setEncoding('utf8')) text += part;
  return { status: response.statusCode, body: JSON.parse(text) };
}

/** As above, with the bearer. */
function askWith(daemon, target, { headers = {}, ...options } = {}) {
  return ask(daemon, target, { ...options, headers: { Authorization: `Bearer ${bearer(daemon)}`, ...headers } });
}

function sleeper(t) {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

function registration(pid) {
  const token = randomBytes(32).toString('hex');
  return { token, session_id: `s-${token.slice(0, 8)}`, mesh: 'dev', display_name: 'name', pid };
}

test('without the bearer nothing is answered, and the gate has its order and its texts', async (t) => {
  const daemon = await Daemon.start(t, ...FLAGS);
  const right = bearer(daemon);
  const body = registration(sleeper(t).pid);
  const inQuery = 'token must be in Authorization header, not query string';
  for (const [target, options, status, text] of [
    ['/v1/version', {}, 401, MISSING],
    ['/v1/health', {}, 401, MISSING],
    ['/v1/nothing', {}, 401, MISSING],
    ['/v1/sessions/register', { method: 'POST', body }, 401, MISSING],
    ['/v1/send', { method: 'POST', body: { to: 'a' } }, 401, MISSING],
    ['/v1/version', { headers: { Authorization: `bearer ${right}` } }, 401, MISSING],
    ['/v1/version', { headers: { Authorization: `ClaudeMesh-Session ${body.token}` } }, 401, MISSING],
    ['/v1/version', { headers: { Authorization: `Bearer ${right}x` } }, 401, INVALID],
    ['/v1/version', { headers: { Authorization: 'Bearer x' } }, 401, INVALID],
    // Before the bearer: the query, then the host, then the origin.
    ['/v1/version?token=', { headers: { Host: 'example.com' } }, 400, inQuery],
    ['/v1/version', { headers: { Host: 'example.com', Origin: 'null' } }, 403, 'forbidden host'],
    ['/v1/version', { headers: { Origin: 'null' } }, 403, 'forbidden origin'],
  ]) {
    const answer = await ask(daemon, target, options);
    assert.deepEqual([answer.status, answer.body.error], [status, text], `${target} ${JSON.stringify(options)}`);
  }
  for (const [target, options, status, text] of [
    ['/v1/version', { headers: { Host: 'localhost:47823' } }, 200, undefined],
    ['/v1/version', { headers: { Host: '127.0.0.1' } }, 200, undefined],
    ['/v1/version', { headers: { Host: '[::1]:1' } }, 200, undefined],
    ['/v1/nothing', {}, 404, 'not found'],
    ['/v1/peers', {}, 503, 'broker not initialised'],
    ['/v1/inbox', {}, 503, 'inbox not initialised'],
    ['/v1/send', { method: 'POST', body: { to: 'a' } }, 503, 'outbox not initialised'],
  ]) {
    const answer = await askWith(daemon, target, options);
    assert.deepEqual([answer.status, answer.body.error], [status, text], `${target} ${JSON.stringify(options)}`);
  }
  assert.deepEqual(await daemon.listed(), [], 'a refused registration is stored nowhere');
});

test('a session that is registered over TCP is there, but cannot be presented there', async (t) => {
  const daemon = await Daemon.start(t, ...FLAGS);
  const child = sleeper(t);
  const body = registration(child.pid);
  const { status, body: answer } = await askWith(daemon, '/v1/sessions/register', { method: 'POST', body });
  assert.deepEqual([status, answer.ok], [200, true], JSON.stringify(answer));
  const { body: list } = await askWith(daemon, '/v1/sessions');
  assert.deepEqual(list.sessions.map(({ sessionId }) => sessionId), [body.session_id]);
  assert.equal((await daemon.me(body.token)).status, 200, 'over the socket');
  const me = await askWith(daemon, '/v1/sessions/me');
  assert.deepEqual([me.status, me.body.error], [401, 'no session token']);
  child.kill('SIGKILL');
  await eventually('its session ends with it', async () => (await daemon.me(body.token)).status === 401);
});

test('a stream over TCP has the events, and ends properly with a killed daemon', async (t) => {
  const daemon = await Daemon.start(t, ...FLAGS);
  const response = await open(daemon, '/v1/events', { headers: { Authorization: `Bearer ${bearer(daemon)}` } });
  assert.equal(response.statusCode, 200);
  let [text, ended, failed] = ['', false, null];
  response.setEncoding('utf8').on('data', (part) => (text += part));
  response.on('end', () => (ended = true)).on('error', (error) => (failed = error));
  await eventually('it begins', () => text.startsWith(': connected\n\n'));
  const child = sleeper(t);
  const body = registration(child.pid);
  assert.equal((await daemon.register(body)).status, 200);
  child.kill('SIGKILL');
  const has = (event) => text.split('\n\n').some((it) => it.includes(`event: ${event}\n`) && it.includes(body.session_id));
  await eventually('it has both events', () => ['session_registered', 'session_deregistered'].every(has));
  await daemon.kill();
  await eventually('it ends', () => ended || failed);
  assert.equal(failed, null, 'the client of the contract would stay deaf');
});

test('the bearer is a private file, which a restart keeps unless it was deleted', async (t) => {
  const daemon = await Daemon.start(t, ...FLAGS);
  const first = bearer(daemon);
  assert.match(fs.readFileSync(daemon.file(BEARER_FILE), 'utf8'), /^[\w-]{43}\n$/);
  assert.equal((fs.statSync(daemon.file(BEARER_FILE)).mode & 0o777).toString(8), '600');

  await daemon.stop();
  await daemon.launch();
  assert.equal(bearer(daemon), first);
  assert.equal((await askWith(daemon, '/v1/version')).status, 200);

  await daemon.stop();
  fs.rmSync(daemon.file(BEARER_FILE));
  await daemon.launch();
  assert.notEqual(bearer(daemon), first);
  assert.equal((await askWith(daemon, '/v1/version')).status, 200);
  const old = await ask(daemon, '/v1/version', { headers: { Authorization: `Bearer ${first}` } });
  assert.deepEqual([old.status, old.body.error], [401, INVALID]);
  await daemon.stop();
});
