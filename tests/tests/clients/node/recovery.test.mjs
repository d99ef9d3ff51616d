// Clients and daemons that take the files of a live daemon away: it puts them back.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import readline from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { PID_FILE, SOCKET, Subscriber, probe } from './client.mjs';
import { Daemon, eventually, isAlive } from './daemon.mjs';

const RIVAL = fileURLToPath(new URL('rival.mjs', import.meta.url));
/** Within this time the files are there again. */
const BACK_MS = process.env.REAPER_TEST_SCALE === 'full' ? 1_000 : 10_000;

function sleeper(t) {
  const child = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  return child;
}

async function registerNew(daemon, pid) {
  const token = randomBytes(32).toString('hex');
  const body = { token, session_id: `s-${token.slice(0, 12)}`, mesh: 'dev', display_name: 'name', pid };
  assert.equal((await daemon.register(body)).status, 200);
  return token;
}

/** What a client finds that has just been started, and thus has no connection yet. */
const newClient = (daemon) => probe(daemon.folder, false);

const modeOf = (file) => (fs.statSync(file).mode & 0o777).toString(8);

async function filesAreBack(daemon) {
  const start = performance.now();
  const areThere = async () => daemon.pid() === daemon.child.pid && (await daemon.answers());
  await eventually('socket and pid file are back', areThere, BACK_MS);
  console.log(`back after ${Math.round(performance.now() - start)} ms`);
  assert.deepEqual([modeOf(daemon.file(SOCKET)), modeOf(daemon.file(PID_FILE))], ['600', '600']);
}

test('a stopped daemon, whose files a client has removed, is found again once it continues', async (t) => {
  const daemon = await Daemon.start(t);
  const token = await registerNew(daemon, sleeper(t).pid);
  const subscriber = new Subscriber(daemon.folder);
  t.after(() => subscriber.close());
  await eventually('the stream is open', () => subscriber.opened === 1);

  const resume = await daemon.suspend();
  t.after(resume);
  assert.equal(await newClient(daemon), 'stale');
  assert.deepEqual([SOCKET, PID_FILE].map((name) => fs.existsSync(daemon.file(name))), [false, false]);
  assert.equal(await newClient(daemon), 'down');

  resume();
  await filesAreBack(daemon);
  assert.equal(await newClient(daemon), 'up');
  assert.equal((await daemon.me(token)).status, 200, 'the session is still there');
  await registerNew(daemon, sleeper(t).pid);
  assert.deepEqual([subscriber.opened, subscriber.ended, subscriber.aborted], [1, 0, 0], 'the stream went on');
  await daemon.stop();
});

test('files that are removed, again and again, come back each time', async (t) => {
  const daemon = await Daemon.start(t);
  for (const names of [[SOCKET], [PID_FILE], [SOCKET, PID_FILE], [PID_FILE]]) {
    names.forEach((name) => fs.rmSync(daemon.file(name)));
    await filesAreBack(daemon);
  }
  await daemon.stop();
});

test('files of a killed daemon do not keep the next one from starting', async (t) => {
  const daemon = await Daemon.start(t);
  await daemon.kill();
  assert.ok(fs.existsSync(daemon.file(SOCKET)), 'a killed daemon leaves its socket');
  assert.equal(await newClient(daemon), 'stale');
  await daemon.launch();
  await daemon.kill();
  // This time no client has removed them. A process that is younger than the file has got the pid since.
  fs.writeFileSync(daemon.file(PID_FILE), `${sleeper(t).pid}`);
  const hourAgo = Date.now() / 1000 - 60 * 60;
  fs.utimesSync(daemon.file(PID_FILE), hourAgo, hourAgo);
  await daemon.launch();
  await daemon.stop();
});

test('a live process in the pid file, which may be a daemon of another program, is left alone', async (t) => {
  const daemon = new Daemon();
  t.after(() => daemon.end());
  const other = sleeper(t);
  fs.writeFileSync(daemon.file(PID_FILE), `${other.pid}`, { mode: 0o600 });
  daemon.spawn();
  assert.notEqual(await daemon.exitCode(), 0, daemon.output());
  assert.equal(daemon.pid(), other.pid);
  assert.ok(!fs.existsSync(daemon.file(SOCKET)), daemon.output());

  other.kill('SIGKILL');
  await eventually('it has ended', () => !isAlive(other.pid));
  await daemon.launch();
  await daemon.stop();
});

test('a second daemon does not start beside the first', async (t) => {
  const daemon = await Daemon.start(t);
  const second = new Daemon();
  t.after(() => second.end());
  second.folder = daemon.folder;
  second.spawn();
  assert.notEqual(await second.exitCode(), 0, second.output());
  assert.equal(daemon.pid(), daemon.child.pid);
  assert.equal(await daemon.answers(), true);
  await daemon.stop();
});

/** Another daemon for the folder of this one; `next()` is what it says next. */
function startRival(t, daemon) {
  const env = { ...process.env, CLAUDEMESH_DAEMON_DIR: daemon.folder };
  const child = spawn(process.execPath, [RIVAL], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return { child, next: async () => JSON.parse((await lines.next()).value) };
}

test('a daemon of another program does not start beside a live one', async (t) => {
  const daemon = await Daemon.start(t);
  assert.equal(await startRival(t, daemon).next(), 'already running');
  fs.rmSync(daemon.file(PID_FILE));
  await filesAreBack(daemon);
  assert.equal(await startRival(t, daemon).next(), 'already running');
});

for (const how of ['stops', 'is killed']) {
  test(`a daemon of another program that looked before, and writes after, is outlived when it ${how}`, async (t) => {
    const daemon = new Daemon();
    t.after(() => daemon.end());
    const rival = startRival(t, daemon);
    assert.equal(await rival.next(), 'free');
    await daemon.launch();
    const token = await registerNew(daemon, sleeper(t).pid);
    rival.child.stdin.write('\n');
    assert.equal(await rival.next(), 'serves');
    assert.equal(daemon.child.exitCode, null, daemon.output());

    if (how === 'stops') rival.child.stdin.end();
    else rival.child.kill('SIGKILL');
    await eventually('it has ended', () => !isAlive(rival.child.pid));
    await eventually('the pid file is back', () => daemon.pid() === daemon.child.pid, BACK_MS);
    // A killed one leaves a socket, which this daemon takes for that of a live program. The next client
    // removes it, as it finds no daemon there.
    if (how === 'is killed') await newClient(daemon);
    await filesAreBack(daemon);
    assert.equal((await daemon.me(token)).status, 200, 'the session is still there');
    await daemon.stop();
  });
}
