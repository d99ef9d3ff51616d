// The launch sequence of section A8: `node launcher.mjs OPTIONS`, with a JSON object of these options:
// mesh, resume (a session's UUID), pauseMs (between probe and registration), blocks (whether it waits as work
// that blocks the process does), program (the command to run).
// It prints one line about what happened before it runs the program.

import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, randomBytes, randomUUID, sign } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';

import { probe, request } from './client.mjs';

const HOUR_MS = 60 * 60 * 1000;
const DAEMON = process.env.CLAUDEMESH_DAEMON_DIR;
const AGENT = fileURLToPath(new URL('agent.mjs', import.meta.url));
const options = JSON.parse(process.argv[2] ?? '{}');
const { mesh = 'dev', resume, pauseMs = 0, blocks = false, program = [process.execPath, AGENT] } = options;

removeOldFolders();
const found = await probe(DAEMON);
if (blocks) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);
else await sleep(pauseMs);

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'claudemesh-'));
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
fs.writeFileSync(path.join(folder, 'config.json'), '{}', { mode: 0o600 });
const sessionId = resume ?? randomUUID();
const token = randomBytes(32).toString('hex');
const tokenFile = path.join(folder, 'session-token');
fs.writeFileSync(tokenFile, token, { mode: 0o600 });
const keys = keysOf(sessionId);

const registered = await attempt('/v1/sessions/register', {
  method: 'POST',
  timeoutMs: 3_000,
  body: {
    token,
    session_id: sessionId,
    mesh,
    display_name: `name of ${sessionId}`,
    pid: process.pid,
    cwd: process.cwd(),
    role: 'dev',
    groups: ['@all', '@core:lead'],
    presence: presence(keys),
  },
});
const [health, peers, inbox] = [
  await attempt('/v1/health', { timeoutMs: 1_500 }),
  await attempt('/v1/peers', { token, timeoutMs: 3_000 }),
  await attempt('/v1/inbox', { token, timeoutMs: 3_000 }),
];
const { pid } = process;
const { pubkey } = keys;
const report = { pid, found, sessionId, token, tokenFile, pubkey, registered, health, peers, inbox };
fs.writeSync(1, `${JSON.stringify(report)}\n`);

const [command, ...args] = program;
const env = {
  ...process.env,
  CLAUDEMESH_CONFIG_DIR: folder,
  CLAUDEMESH_DISPLAY_NAME: `name of ${sessionId}`,
  CLAUDEMESH_SESSION_ID: sessionId,
  CLAUDEMESH_IPC_TOKEN_FILE: tokenFile,
  CLAUDEMESH_ROLE: 'dev',
};
const { status } = spawnSync(command, args, { stdio: 'inherit', env });
process.exit(status ?? 1);

/** Sends a request, once. What comes of it is only reported. */
async function attempt(target, options) {
  try {
    const { status, body } = await request(DAEMON, target, options);
    return { status, body };
  } catch (error) {
    return { error: error.code ?? error.message };
  }
}

function removeOldFolders() {
  for (const name of fs.readdirSync(os.tmpdir())) {
    const old = path.join(os.tmpdir(), name);
    // Other launchers come and go at the same time, with their folders.
    const found = name.startsWith('claudemesh-') && fs.statSync(old, { throwIfNoEntry: false });
    if (found && Date.now() - found.mtimeMs > HOUR_MS) fs.rmSync(old, { recursive: true, force: true });
  }
}

/** The key pair of a session, which is made at its first launch. */
function keysOf(uuid) {
  const at = path.join(process.env.CLAUDEMESH_SESSIONS_DIR, mesh, `${uuid}.json`);
  if (fs.existsSync(at)) return JSON.parse(fs.readFileSync(at, 'utf8'));
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const hex = (key, part) => Buffer.from(key.export({ format: 'jwk' })[part], 'base64url').toString('hex');
  const made = { pubkey: hex(publicKey, 'x'), seed: hex(privateKey, 'd') };
  fs.mkdirSync(path.dirname(at), { recursive: true, mode: 0o700 });
  fs.writeFileSync(at, JSON.stringify(made), { mode: 0o600 });
  return made;
}

function presence({ pubkey, seed }) {
  // The member of the mesh, which signs the key of the session for twelve hours.
  const member = generateKeyPairSync('ed25519');
  const signature = sign(null, Buffer.from(pubkey), member.privateKey).toString('hex');
  const parent = Buffer.from(member.publicKey.export({ format: 'jwk' }).x, 'base64url').toString('hex');
  return {
    session_pubkey: pubkey,
    session_secret_key: seed + pubkey,
    parent_attestation: {
      session_pubkey: pubkey,
      parent_member_pubkey: parent,
      expires_at: Date.now() + 12 * HOUR_MS,
      signature,
    },
  };
}
