// Every route of the contract with the texts that its clients read: the gate (A2), the sessions (A3), the
// routes of a message broker (A5), version and health (A6).

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { test } from 'node:test';

import { PID_FILE, SOCKET } from './client.mjs';
import { Daemon, eventually } from './daemon.mjs';

const newToken = () => randomBytes(32).toString('hex');

function registration(pid, more = {}) {
  const token = newToken();
  return { token, session_id: `s-${token.slice(0, 8)}`, mesh: 'dev', display_name: 'name', pid, ...more };
}

/** A process to register, which ends with the test. */
function sleeper(t) {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

const [BROKER, INBOX, OUTBOX] = ['broker', 'inbox', 'outbox'].map((part) => `${part} not initialised`);
const BROKER_ROUTES = [
  ['GET', '/v1/peers', BROKER],
  ['GET', '/v1/peers?mesh=dev', BROKER],
  ['GET', '/v1/state', BROKER],
  ['GET', '/v1/state?key=a&mesh=dev', BROKER],
  ['POST', '/v1/state', BROKER, { key: 'a', value: 1 }],
  ['GET', '/v1/memory', BROKER],
  ['GET', '/v1/memory?q=a', BROKER],
  ['POST', '/v1/memory', BROKER, { content: 'a' }],
  ['DELETE', '/v1/memory/1', BROKER],
  ['GET', '/v1/skills', BROKER],
  ['GET', '/v1/skills/name', BROKER],
  ['POST', '/v1/profile', BROKER, { summary: 'a' }],
  ['DELETE', '/v1/state?key=a', BROKER],
  ['GET', '/v1/inbox', INBOX],
  ['GET', '/v1/inbox?limit=20', INBOX],
  ['GET', '/v1/inbox?mesh=dev', INBOX],
  ['DELETE', '/v1/inbox', INBOX],
  ['DELETE', '/v1/inbox?mesh=dev', INBOX],
  ['DELETE', '/v1/inbox/1', INBOX],
  ['POST', '/v1/inbox/seen', INBOX, { ids: ['a'] }],
  ['POST', '/v1/send', OUTBOX, { to: 'a', message: 'b' }],
  ['GET', '/v1/outbox', OUTBOX],
  ['POST', '/v1/outbox/requeue', OUTBOX, { id: 'a' }],
];

test('the routes of a broker answer as a daemon without one, with each kind of session', async (t) => {
  const daemon = await Daemon.start(t);
  const ended = sleeper(t);
  const [live, dead] = [registration(sleeper(t).pid), registration(ended.pid)];
  for (const body of [live, dead]) assert.equal((await daemon.register(body)).status, 200);
  ended.kill('SIGKILL');
  await eventually('the session is dead', async () => (await daemon.me(dead.token)).status === 401);

  const sessions = { no: undefined, live: live.token, dead: dead.token, unknown: newToken(), malformed: 'x' };
  const different = [];
  for (const [kind, token] of Object.entries(sessions)) {
    const isRefused = ['dead', 'unknown', 'malformed'].includes(kind);
    for (const [method, target, text, body] of BROKER_ROUTES) {
      const answer = await daemon.request(target, { method, token, body });
      const got = `${answer.status} ${answer.body?.error}`;
      // The origin takes such a token for no session, and then serves all meshes. Here it is refused.
      const expected = isRefused ? '401 no session token' : `503 ${text}`;
      if (got !== expected) different.push(`${method} ${target}, ${kind} session: ${got}, not ${expected}`);
    }
  }
  assert.deepEqual(different, []);
});

test('the gate answers in its order, with its texts', async (t) => {
  const daemon = await Daemon.start(t);
  const token = 'token must be in Authorization header, not query string';
  for (const [target, options, status, text] of [
    ['/v1/version?token=', {}, 400, token],
    ['/nothing?a=b&token=x', {}, 400, token],
    ['/v1/version?token=x', { headers: { Origin: 'http://a' } }, 400, token],
    ['/v1/version', { headers: { Origin: 'null' } }, 403, 'forbidden origin'],
    ['/v1/version', { headers: { Origin: 'http://localhost' } }, 403, 'forbidden origin'],
    ['/v1/version/', {}, 404, 'not found'],
    ['/v1/nothing', {}, 404, 'not found'],
    ['//', {}, 404, 'not found'],
    ['/v1/version', { method: 'POST' }, 404, 'not found'],
    ['/v1/sessions', { method: 'OPTIONS' }, 404, 'not found'],
    ['/v1/sessions/me', {}, 401, 'no session token'],
    ['/v1/sessions/me', { token: 'x' }, 401, 'no session token'],
    ['/v1/sessions/me', { token: newToken() }, 401, 'no session token'],
    ['/v1/sessions/me', { headers: { Authorization: 'Bearer x' } }, 401, 'no session token'],
    ['/v1/sessions/nonsense', { method: 'DELETE' }, 400, 'invalid token'],
  ]) {
    const answer = await daemon.request(target, options);
    assert.deepEqual([answer.status, answer.body.error], [status, text], `${target} ${JSON.stringify(options)}`);
    assert.match(answer.headers['content-type'], /json/);
    assert.ok(Number(answer.headers['content-length']) > 0);
  }
  assert.equal(await daemon.answers(), true, 'it still serves');
});

test('a registration that cannot be accepted has the text of the contract', async (t) => {
  const daemon = await Daemon.start(t);
  const { pid } = sleeper(t);
  const all = 'session_id, mesh, display_name, pid all required';
  const hex = 'token must be 64 hex chars';
  for (const [body, text] of [
    ['', 'missing body'],
    ['null', 'missing body'],
    ['{', 'Error: invalid_json'],
    ['[]', hex],
    [registration(pid, { token: 'x' }), hex],
    [registration(pid, { session_id: '' }), all],
    [registration(pid, { mesh: undefined }), all],
    [registration(pid, { display_name: null }), all],
    [registration(undefined), all],
  ]) {
    const answer = await daemon.register(body);
    assert.ok(answer.status >= 400 && answer.status < 500, JSON.stringify(answer.body));
    assert.equal(answer.body.error, text, JSON.stringify(body));
  }
  const long = registration(pid, { cwd: 'x'.repeat(70_000) });
  const refused = await daemon.register(long).catch((error) => error);
  assert.notEqual(refused.status, 200);
  assert.deepEqual(await daemon.listed(), []);
});

test('a session is looked up, listed and removed', async (t) => {
  const daemon = await Daemon.start(t);
  const bodies = [1, 2, 3].map(() => registration(sleeper(t).pid, { groups: ['@a'], unknown: {} }));
  for (const body of bodies) {
    const { status, body: answer } = await daemon.register(body);
    assert.equal(status, 200, JSON.stringify(answer));
    assert.deepEqual([answer.ok, answer.presence_accepted], [true, false]);
  }
  const listed = await daemon.listed();
  assert.deepEqual(listed.map(({ sessionId }) => sessionId), bodies.map((body) => body.session_id));
  const token = bodies[0].token.toUpperCase();
  const { body } = await daemon.me(token);
  assert.equal(body.session.token_prefix, bodies[0].token.slice(0, 8));
  const target = `/v1/sessions/${token}`;
  const removed = await daemon.request(target, { method: 'DELETE' });
  assert.equal(removed.status, 200);
  assert.deepEqual([removed.body.ok, removed.body.token_prefix.toUpperCase()], [true, token.slice(0, 8)]);
  const again = await daemon.request(target, { method: 'DELETE' });
  assert.deepEqual([again.status, again.body.ok], [404, false]);
});

test('version and health are those of the contract, and the files too', async (t) => {
  const daemon = await Daemon.start(t);
  const { body: version } = await daemon.request('/v1/version');
  assert.deepEqual([version.ipc_api, version.schema_version], ['v1', 1]);
  assert.equal(typeof version.daemon_version, 'string');
  for (const feature of ['version', 'health', 'events', 'sessions']) assert.ok(version.ipc_features.includes(feature));
  const { body: health } = await daemon.request('/v1/health');
  assert.deepEqual([health.ok, health.brokers], [true, {}]);
  assert.ok(Number.isInteger(health.pid));

  const mode = (name) => (fs.statSync(daemon.file(name)).mode & 0o777).toString(8);
  assert.deepEqual([mode(SOCKET), mode(PID_FILE)], ['600', '600']);
  assert.match(fs.readFileSync(daemon.file(PID_FILE), 'utf8'), /^\d+\n?$/);
  await daemon.stop();
});
