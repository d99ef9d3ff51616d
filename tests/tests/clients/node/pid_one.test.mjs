// The launch sequence in a pid namespace of its own, as in a container: the launcher is pid 1 there.

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';

import { Daemon, eventually } from './daemon.mjs';
import { Launch } from './launch.mjs';

const IN_NAMESPACE = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc'];
const SOON_MS = process.env.REAPER_TEST_SCALE === 'full' ? 2_000 : 10_000;

function canRun() {
  if (process.getuid() === 0) return true;
  console.log('skipped: a pid namespace needs root');
  return false;
}

/** The pid that a process has in the innermost of its namespaces. */
function innermostPid(pid) {
  const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/^NSpid:.*\t(\d+)$/m.exec(status)[1]);
}

async function isGone(daemon, token) {
  await eventually('the session is gone', async () => (await daemon.me(token)).status === 401, SOON_MS);
}

test('pid 1 of a namespace registers itself, and programs below it', { skip: !canRun() }, async (t) => {
  const daemon = await Daemon.start(t);
  const launch = await Launch.start(t, daemon, {}, IN_NAMESPACE);
  const { report } = launch;
  assert.deepEqual([report.pid, report.found, report.registered.status], [1, 'up', 200], JSON.stringify(report));
  const { session } = (await launch.ask('me')).body;
  assert.notEqual(session.pid, 1, 'the daemon has its own numbers');
  assert.equal(innermostPid(session.pid), 1);

  const inner = await launch.ask('nest');
  assert.equal(inner.registered.status, 200, JSON.stringify(inner));
  const ofInner = (await launch.ask('>me')).body.session;
  assert.equal(innermostPid(ofInner.pid), inner.pid);
  launch.tell('un-nest');
  await isGone(daemon, inner.token);
  assert.equal((await launch.ask('me')).status, 200);
  await launch.end();
  await isGone(daemon, report.token);
});

test('the end of a namespace ends its sessions', { skip: !canRun() }, async (t) => {
  const daemon = await Daemon.start(t);
  const launch = await Launch.start(t, daemon, {}, IN_NAMESPACE);
  const inner = await launch.ask('nest');
  assert.equal((await daemon.listed()).length, 2);
  launch.child.kill('SIGKILL');
  await isGone(daemon, launch.report.token);
  await isGone(daemon, inner.token);
  assert.deepEqual(await daemon.listed(), []);
});
