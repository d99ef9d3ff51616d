// A daemon to test, in a folder of its own, and ways to wait. What is known here is what section A1 of the
// contract says of files and signals.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { PID_FILE, SOCKET, request } from './client.mjs';

/** The program under test. */
const PROGRAM = process.env.REAPERD;
/** A folder that is removed after the test. */
export const FOLDER = process.env.TEST_FOLDER;
/** Whether the long tests do all of their work. */
export const IS_FULL = process.env.REAPER_TEST_SCALE === 'full';
/** Long enough for a machine that is busy with other work. */
export const LIMIT_MS = 30_000;
/** Within this time a daemon that was asked to stop has ended: the CLI looks 50 times, every 100 ms. */
const STOP_MS = 5_000;

/** Waits until `holds()` returns something true, and returns it. */
export async function eventually(what, holds, limitMs = LIMIT_MS) {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const found = await holds();
    if (found) return found;
    assert.ok(performance.now() < deadline, `not within ${limitMs} ms: ${what}`);
    await sleep(5);
  }
}

/** Whether there is such a process, as the CLI decides it. */
export function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

export class Daemon {
  /** Starts a daemon in a new folder and waits until it serves. It ends with the test `t`. */
  static async start(t, ...flags) {
    const daemon = new Daemon(flags);
    t.after(() => daemon.end());
    await daemon.launch();
    return daemon;
  }

  constructor(flags = []) {
    this.flags = flags;
    this.folder = fs.mkdtempSync(path.join(FOLDER, 'daemon-'));
    this.log = path.join(this.folder, 'log');
  }

  /** Starts it, again after it has ended. */
  async launch() {
    this.spawn();
    await eventually('the daemon serves', async () => {
      assert.equal(this.child.exitCode, null, `the daemon ended: ${this.output()}`);
      return (await this.answers()) && this.pid() === this.child.pid;
    });
  }

  spawn() {
    const env = { ...process.env, CLAUDEMESH_DAEMON_DIR: this.folder };
    const names = Object.keys(env).filter((name) => name.startsWith('REAPERD') || name === 'RUST_LOG');
    names.forEach((name) => delete env[name]);
    const log = fs.openSync(this.log, 'a');
    // Without TCP, whose port is fixed, so that tests can run at the same time.
    const tcp = this.flags.includes('--tcp') ? [] : ['--no-tcp'];
    const flags = ['daemon', '--profile', 'claudemesh', '--no-config', ...tcp, ...this.flags];
    this.child = spawn(PROGRAM, flags, { env, stdio: ['ignore', log, log] });
    fs.closeSync(log);
    this.ended = new Promise((resolve) => this.child.on('exit', resolve));
  }

  /** Whether it answers on a new connection. */
  async answers() {
    return this.request('/v1/version', { agent: false }).then(({ status }) => status === 200, () => false);
  }

  request(target, options) {
    return request(this.folder, target, options);
  }

  register(body) {
    return this.request('/v1/sessions/register', { method: 'POST', body });
  }

  me(token) {
    return this.request('/v1/sessions/me', { token });
  }

  async listed() {
    const { body } = await this.request('/v1/sessions');
    return body.sessions;
  }

  file(name) {
    return path.join(this.folder, name);
  }

  output() {
    return fs.readFileSync(this.log, 'utf8');
  }

  /** The content of the pid file, or null. */
  pid() {
    try {
      return Number(fs.readFileSync(this.file(PID_FILE), 'utf8'));
    } catch {
      return null;
    }
  }

  /** All processes of the daemon: the one of the pid file, and those that it has started. */
  pids() {
    const childrenOf = (pid) => fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    const below = (pid) => [pid, ...childrenOf(pid).split(' ').filter(Boolean).map(Number).flatMap(below)];
    return below(this.child.pid);
  }

  /** Waits until it has ended, and returns its exit code. */
  async exitCode() {
    await eventually('the daemon ends', () => this.child.exitCode !== null || this.child.signalCode !== null);
    return this.child.exitCode;
  }

  /** Stops it as the CLI does. */
  async stop() {
    const pid = this.pid();
    const start = performance.now();
    process.kill(pid, 'SIGTERM');
    assert.equal(await this.exitCode(), 0, this.output());
    assert.ok(performance.now() - start < STOP_MS, 'the CLI would have given up');
    for (const name of [SOCKET, PID_FILE]) assert.ok(!fs.existsSync(this.file(name)), `${name} stays`);
  }

  /** Kills all of its processes at once. */
  async kill() {
    const pids = this.pids();
    pids.forEach((pid) => process.kill(pid, 'SIGKILL'));
    await this.ended;
    await eventually('all processes have ended', () => !pids.some(isAlive));
  }

  /** Stops all of its processes with SIGSTOP, and returns a function that continues them. */
  async suspend() {
    const pids = this.pids();
    pids.forEach((pid) => process.kill(pid, 'SIGSTOP'));
    const isStopped = (pid) => fs.readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').pop().startsWith('T');
    await eventually('it has stopped', () => pids.every(isStopped));
    return () => pids.filter(isAlive).forEach((pid) => process.kill(pid, 'SIGCONT'));
  }

  /** Ends it after a test, in whatever state it is. */
  async end() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill('SIGCONT');
    this.child.kill('SIGTERM');
    const late = setTimeout(() => this.child.kill('SIGKILL'), STOP_MS);
    await this.ended;
    clearTimeout(late);
  }
}
