// Subscribers with the rules of the claudemesh CLI: 1 s after a stream's end they open it again, 2 s after an
// error of the request, and never after a stream that is cut off.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';

import { Subscriber } from './client.mjs';
import { Daemon, IS_FULL, LIMIT_MS, eventually, isAlive } from './daemon.mjs';

const SUBSCRIBERS = 200;
/** Of the sessions of all subscribers. */
const PROCESSES = 20;
/** Between two comments on a quiet stream. */
const KEEPALIVE_MS = 15_000;
/** Both pauses of a subscriber, and as much for a machine that is busy with other work. */
const BACK_MS = IS_FULL ? 6_000 : 20_000;

function subscribe(t, daemon, token) {
  const subscriber = new Subscriber(daemon.folder, token);
  t.after(() => subscriber.close());
  return subscriber;
}

async function opens(subscribers, count) {
  const isOpen = (it) => it.opened >= count && it.comments.filter((text) => text === 'connected').length >= count;
  await eventually(`all streams are open for the ${count}. time`, () => subscribers.every(isOpen), BACK_MS);
}

function registerNew(daemon, pid) {
  const token = randomBytes(32).toString('hex');
  const body = { token, session_id: `s-${token.slice(0, 12)}`, mesh: 'dev', display_name: 'name', pid };
  return daemon.register(body).then(({ status }) => {
    assert.equal(status, 200);
    return body;
  });
}

function sleeper(t) {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

test('a subscriber comes back after every end of the daemon', async (t) => {
  const daemon = await Daemon.start(t);
  const subscriber = subscribe(t, daemon);
  await opens([subscriber], 1);
  assert.match(subscriber.headers['content-type'], /^text\/event-stream/);
  assert.match(subscriber.headers['cache-control'], /no-cache/);

  const ends = {
    'an orderly stop': () => daemon.stop(),
    'a kill': () => daemon.kill(),
  };
  let opened = 1;
  for (const [what, end] of Object.entries(ends)) {
    await end();
    await eventually(`it sees ${what}`, () => subscriber.ended === opened, BACK_MS);
    await eventually('it finds no daemon', () => subscriber.failed >= opened, BACK_MS);
    await daemon.launch();
    opened += 1;
    await opens([subscriber], opened);
    const body = await registerNew(daemon, sleeper(t).pid);
    const isIt = ({ name, data }) => name === 'session_registered' && data.session.sessionId === body.session_id;
    await eventually(`it reads events again after ${what}`, () => subscriber.events.some(isIt));
  }
  assert.equal(subscriber.aborted, 0, 'a stream was cut off, and the client stays deaf');
});

test('a restart within the second before a subscriber comes back is not noticed otherwise', async (t) => {
  const daemon = await Daemon.start(t);
  const subscriber = subscribe(t, daemon);
  await opens([subscriber], 1);
  await daemon.stop();
  await daemon.launch();
  await opens([subscriber], 2);
  assert.deepEqual([subscriber.ended, subscriber.aborted], [1, 0]);
});

test('a stream carries a comment every 15 s', async (t) => {
  const daemon = await Daemon.start(t);
  const subscriber = subscribe(t, daemon);
  await opens([subscriber], 1);
  let before = performance.now();
  for (const count of IS_FULL ? [1, 2, 3] : [1]) {
    const kept = () => subscriber.comments.filter((text) => text === 'keepalive').length >= count;
    await eventually(`comment ${count}`, kept, KEEPALIVE_MS + LIMIT_MS);
    const pause = performance.now() - before;
    before += pause;
    assert.ok(pause > KEEPALIVE_MS - 1_000 && pause < KEEPALIVE_MS + BACK_MS, `after ${pause} ms`);
  }
  assert.deepEqual([subscriber.opened, subscriber.ended], [1, 0]);
});

test('a worker that is killed is replaced, and the sessions stay', async (t) => {
  const daemon = await Daemon.start(t);
  const [main, worker] = daemon.pids();
  if (worker === undefined) return t.skip('the daemon is one process');
  const subscriber = subscribe(t, daemon);
  await opens([subscriber], 1);
  const body = await registerNew(daemon, sleeper(t).pid);
  process.kill(worker, 'SIGKILL');
  await opens([subscriber], 2);
  assert.equal((await daemon.me(body.token)).status, 200);
  assert.deepEqual([daemon.pid(), isAlive(main)], [main, true], 'the pid file is still right');
  assert.equal(subscriber.aborted, 0);
});

test('many subscribers have the events of their sessions only, and come back', async (t) => {
  const daemon = await Daemon.start(t);
  const children = Array.from({ length: PROCESSES }, () => sleeper(t));
  const all = [];
  for (let at = 0; at < SUBSCRIBERS; at += 1) {
    const child = children[at % PROCESSES];
    const body = await registerNew(daemon, child.pid);
    all.push({ child, body, subscriber: subscribe(t, daemon, body.token) });
  }
  const subscribers = all.map(({ subscriber }) => subscriber);
  await opens(subscribers, 1);

  // One process and its sessions end: only their subscribers hear of it.
  const [dead] = children;
  dead.kill('SIGKILL');
  const of = (child) => all.filter((it) => it.child === child);
  const endOf = ({ subscriber }) => subscriber.events.find(({ name }) => name === 'session_deregistered');
  await eventually('each of them has its end', () => of(dead).every(endOf));
  for (const it of of(dead)) {
    const { data } = endOf(it);
    assert.deepEqual([data.session.sessionId, data.cause], [it.body.session_id, 'exited']);
  }
  const foreign = all.filter(({ subscriber, body }) =>
    subscriber.events.some(({ data }) => data?.session && data.session.sessionId !== body.session_id));
  assert.equal(foreign.length, 0, 'events of another session');
  const living = all.filter(({ child }) => child !== dead);
  assert.ok(living.every(({ subscriber }) => subscriber.opened === 1 && !endOf({ subscriber })));

  // A restart: all come back, also those whose sessions are unknown now, as none is registered again.
  await eventually('those of the dead process have come back', () => of(dead).every((it) => it.subscriber.opened >= 2));
  const opened = Math.max(...subscribers.map((it) => it.opened));
  const before = subscribers.map((it) => it.opened);
  assert.ok(opened <= 3, `a stream without a session ends again and again: ${before}`);
  await daemon.stop();
  await daemon.launch();
  await eventually('all are back', () => subscribers.every((it, at) => it.opened > before[at]), BACK_MS);
  assert.equal(subscribers.filter((it) => it.aborted > 0).length, 0);
  const counted = subscribers.map((it) => it.events.length);
  const body = await registerNew(daemon, children[1].pid);
  await daemon.request('/v1/sessions/me', { method: 'DELETE', token: body.token });
  assert.deepEqual(subscribers.map((it) => it.events.length), counted, 'an unknown token sees no events');
});
