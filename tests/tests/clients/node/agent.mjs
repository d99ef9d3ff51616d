// The program that the launcher runs, with the session in its environment. It obeys lines on its input:
//   me        prints its session, as the daemon sees it
//   nest      runs the launch sequence once more, within this session
//   >LINE     passes LINE on to the program of that one
//   un-nest   ends that one
// and ends with its input.

import { spawn } from 'node:child_process';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';

import { request, sessionToken } from './client.mjs';

const LAUNCHER = fileURLToPath(new URL('launcher.mjs', import.meta.url));
let nested;

for await (const line of readline.createInterface({ input: process.stdin })) {
  if (line === 'me') {
    const answer = await request(process.env.CLAUDEMESH_DAEMON_DIR, '/v1/sessions/me', { token: sessionToken() });
    const { status, body } = answer;
    console.log(JSON.stringify({ of: process.env.CLAUDEMESH_SESSION_ID, status, body }));
  } else if (line === 'nest') {
    nested = spawn(process.execPath, [LAUNCHER], { stdio: ['pipe', 'inherit', 'inherit'] });
  } else if (line.startsWith('>')) {
    nested.stdin.write(`${line.slice(1)}\n`);
  } else if (line === 'un-nest') {
    nested.stdin.end();
  }
}
nested?.stdin.end();
