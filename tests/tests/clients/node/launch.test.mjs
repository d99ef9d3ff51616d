// The launch sequence of the claudemesh CLI, from the registration to the end of the session.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { sessionToken } from './client.mjs';
import { Daemon, FOLDER, IS_FULL, eventually, isAlive } from './daemon.mjs';
import { Launch } from './launch.mjs';

/** The end of a process must be noticed at once. The origin needs up to 5 s. */
const SOON_MS = process.env.REAPER_TEST_SCALE === 'full' ? 2_000 : 10_000;

async function isGone(daemon, launch) {
  const { token, sessionId } = launch.report;
  await eventually('the session is gone', async () => (await daemon.me(token)).status === 401, SOON_MS);
  assert.equal((await daemon.me(token)).body.error, 'no session token');
  assert.ok(!(await daemon.listed()).some((session) => session.sessionId === sessionId));
}

test('a launch registers a session, which its program reads and which ends with it', async (t) => {
  const daemon = await Daemon.start(t);
  const launch = await Launch.start(t, daemon, { mesh: 'team' });
  const { report } = launch;
  assert.equal(report.found, 'up');
  assert.equal(report.registered.status, 200);
  assert.equal(report.registered.body.ok, true);
  assert.equal(report.registered.body.presence_accepted, true);
  assert.ok(Math.abs(report.registered.body.registered_at - Date.now()) < 60_000);
  assert.deepEqual([report.health.status, report.health.body.ok, report.health.body.brokers], [200, true, {}]);
  assert.deepEqual([report.peers.status, report.peers.body.error], [503, 'broker not initialised']);
  assert.deepEqual([report.inbox.status, report.inbox.body.error], [503, 'inbox not initialised']);

  const { status, body } = await launch.ask('me');
  assert.equal(status, 200);
  const { session } = body;
  const { sessionId, token, pid, pubkey } = report;
  const expected = {
    sessionId,
    mesh: 'team',
    displayName: `name of ${sessionId}`,
    pid,
    cwd: process.cwd(),
    role: 'dev',
    groups: ['@all', '@core:lead'],
    token_prefix: token.slice(0, 8),
    registeredAt: report.registered.body.registered_at,
  };
  for (const [field, value] of Object.entries(expected)) assert.deepEqual(session[field], value, field);
  assert.equal(session.presence.sessionPubkey, pubkey);
  assert.equal(session.presence.parentAttestation.sessionPubkey, pubkey);
  assert.ok(session.presence.parentAttestation.expiresAt > Date.now());
  assert.equal(session.presence.sessionSecretKey, undefined);
  assert.ok(!JSON.stringify(body).includes(token));

  await launch.end();
  await isGone(daemon, launch);
  assert.ok(!fs.existsSync(report.tokenFile), 'the launcher removes its folder');
});

test('a session that is resumed keeps its id and key, whether the former launch has ended or not', async (t) => {
  const daemon = await Daemon.start(t);
  const resume = randomUUID();
  const first = await Launch.start(t, daemon, { resume });
  const second = await Launch.start(t, daemon, { resume });
  assert.notEqual(first.report.token, second.report.token);
  assert.equal(first.report.pubkey, second.report.pubkey);
  assert.equal((await first.ask('me')).status, 401, 'the second launch has replaced the first');
  assert.equal((await second.ask('me')).body.session.pid, second.report.pid);

  // The end of the first launcher is not the end of the session that has its id now.
  await first.end();
  assert.equal((await second.ask('me')).status, 200);
  await second.end();
  await isGone(daemon, second);

  const third = await Launch.start(t, daemon, { resume });
  const { session } = (await third.ask('me')).body;
  assert.deepEqual([session.sessionId, session.presence.sessionPubkey], [resume, first.report.pubkey]);
  await third.end();
});

test('a launch within a session has a session of its own', async (t) => {
  const daemon = await Daemon.start(t);
  const outer = await Launch.start(t, daemon);
  const inner = await outer.ask('nest');
  assert.equal(inner.registered.status, 200);
  assert.notEqual(inner.token, outer.report.token);
  const [ofOuter, ofInner] = [await outer.ask('me'), await outer.ask('>me')];
  assert.deepEqual([ofOuter.of, ofOuter.body.session.sessionId], [outer.report.sessionId, outer.report.sessionId]);
  assert.deepEqual([ofInner.of, ofInner.body.session.sessionId], [inner.sessionId, inner.sessionId]);
  assert.deepEqual((await daemon.listed()).map(({ pid }) => pid), [outer.report.pid, inner.pid]);

  outer.tell('un-nest');
  await isGone(daemon, { report: inner });
  assert.equal((await outer.ask('me')).status, 200, 'the outer session stays');
  await outer.end();
  await isGone(daemon, outer);
});

test('a killed launcher loses its session although its program lives', async (t) => {
  const daemon = await Daemon.start(t);
  const launch = await Launch.start(t, daemon, { program: ['sh', '-c', 'echo $$; exec sleep 1000'] });
  const program = await launch.next();
  t.after(() => process.kill(program, 'SIGKILL'));
  assert.equal((await daemon.me(launch.report.token)).status, 200);
  launch.child.kill('SIGKILL');
  await isGone(daemon, launch);
  // The launcher left its files; the program can still read its token, and has no session.
  assert.ok(isAlive(program));
  const token = sessionToken({ CLAUDEMESH_IPC_TOKEN_FILE: launch.report.tokenFile });
  assert.equal(token, launch.report.token);
});

test('the folder of an old launch is removed by the next one', async (t) => {
  const daemon = await Daemon.start(t);
  const tmp = path.join(FOLDER, 'tmp');
  const [old, recent] = ['claudemesh-oldone', 'claudemesh-recent'].map((name) => path.join(tmp, name));
  [old, recent].forEach((folder) => fs.mkdirSync(folder, { recursive: true }));
  const twoHoursAgo = Date.now() / 1000 - 2 * 60 * 60;
  fs.utimesSync(old, twoHoursAgo, twoHoursAgo);
  const launch = await Launch.start(t, daemon);
  assert.deepEqual([fs.existsSync(old), fs.existsSync(recent)], [false, true]);
  await launch.end();
});

/** How clients pause between probe and registration, while they visit their brokers. */
const PAUSES = [
  // The client sends both on one connection, if it can. It is announced for 1 s and kept for 3 s. While a client
  // is blocked it sees neither the time nor the end of the connection.
  { flags: ['--keep-alive', '1s'], blocks: false, fromMs: IS_FULL ? 2_800 : 1_000 },
  { flags: ['--keep-alive', '1s'], blocks: true, fromMs: IS_FULL ? 1_800 : 1_000 },
  // The daemon as it is without options: pauses of 2.8 to 3.0 s, as the slowest of them were measured.
  { flags: [], blocks: false, fromMs: 2_800 },
  { flags: [], blocks: true, fromMs: 2_800 },
];

for (const { flags, blocks, fromMs } of PAUSES) {
  const kind = `${blocks ? 'blocks' : 'does not block'}, with the flags [${flags}]`;
  test(`every launch is registered after a pause from ${fromMs} ms on that ${kind}`, async (t) => {
    const daemon = await Daemon.start(t, ...flags);
    const [count, atOnce] = IS_FULL ? [200, 20] : [16, 8];
    const bad = [];
    for (let start = 0; start < count; start += atOnce) {
      const batch = Array.from({ length: Math.min(atOnce, count - start) }, async (_, at) => {
        const pauseMs = fromMs + (200 * (start + at)) / count;
        const launch = new Launch(daemon, { pauseMs, blocks, program: ['true'] });
        const report = await launch.next();
        if (report.found !== 'up' || report.registered.status !== 200) bad.push({ pauseMs, ...report });
        assert.equal(await launch.ended, 0);
        await isGone(daemon, { report });
      });
      await Promise.all(batch);
    }
    assert.deepEqual(bad, [], `${bad.length} of ${count} were not registered`);
    console.log(`${count} launches, all registered`);
  });
}
