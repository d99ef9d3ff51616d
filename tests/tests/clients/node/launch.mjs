// Runs `launcher.mjs` as a process of its own, and talks to the program that it runs.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { FOLDER, eventually } from './daemon.mjs';

const LAUNCHER = fileURLToPath(new URL('launcher.mjs', import.meta.url));

export class Launch {
  lines = [];

  /** Starts it and waits for its report, which becomes `this.report`. `prefix` is a command that runs it. */
  static async start(t, daemon, options = {}, prefix = []) {
    const launch = new Launch(daemon, options, prefix);
    t.after(() => launch.kill());
    launch.report = await launch.next();
    return launch;
  }

  constructor(daemon, options = {}, prefix = []) {
    const folders = { TMPDIR: path.join(FOLDER, 'tmp'), CLAUDEMESH_SESSIONS_DIR: path.join(FOLDER, 'sessions') };
    Object.values(folders).forEach((folder) => fs.mkdirSync(folder, { recursive: true, mode: 0o700 }));
    const env = { ...process.env, ...folders, CLAUDEMESH_DAEMON_DIR: daemon.folder };
    delete env.CLAUDEMESH_IPC_TOKEN;
    const [command, ...args] = [...prefix, process.execPath, LAUNCHER, JSON.stringify(options)];
    this.child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
    this.child.stdin.on('error', () => {});
    this.ended = new Promise((resolve) => {
      this.child.on('exit', (code, signal) => {
        this.status = code ?? signal;
        resolve(this.status);
      });
    });
    let rest = '';
    this.child.stdout.setEncoding('utf8').on('data', (text) => {
      const parts = (rest + text).split('\n');
      rest = parts.pop();
      this.lines.push(...parts);
    });
  }

  /** The next line that it or its program prints, decoded. */
  async next() {
    const line = await eventually('the launcher or its program prints a line', () => this.lines.shift());
    return JSON.parse(line);
  }

  /** Sends a line to the program, and returns the line that it prints. */
  async ask(line) {
    this.tell(line);
    return this.next();
  }

  tell(line) {
    this.child.stdin.write(`${line}\n`);
  }

  /** Ends the program, and waits for the launcher, which must exit with success. */
  async end() {
    this.child.stdin.end();
    assert.equal(await this.ended, 0);
  }

  /** Kills the launcher and leaves its program. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
    // Otherwise this process waits for the program, which has the same pipe.
    this.child.stdin.end();
  }
}
