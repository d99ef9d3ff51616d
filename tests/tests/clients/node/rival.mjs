// Another daemon of the same folder, which takes its place as section A1 of the contract says the origin does:
// it looks into the pid file, and then writes it, and nothing keeps others out in between. It waits for a line
// on its input between the two, and removes both files at the end of its input.

import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';

import { PID_FILE, SOCKET } from './client.mjs';
import { isAlive } from './daemon.mjs';

const folder = process.env.CLAUDEMESH_DAEMON_DIR;
const [socket, pidFile] = [SOCKET, PID_FILE].map((name) => path.join(folder, name));

if (fs.existsSync(pidFile) && isAlive(Number(fs.readFileSync(pidFile, 'utf8')))) {
  console.log('"already running"');
  process.exit(1);
}
console.log('"free"');
await new Promise((resolve) => process.stdin.once('data', resolve));
process.stdin.on('end', () => {
  for (const file of [socket, pidFile]) fs.rmSync(file, { force: true });
  process.exit();
});
fs.writeFileSync(pidFile, `${process.pid}`, { mode: 0o600 });
fs.rmSync(socket, { force: true });
const server = http.createServer((_, response) => response.end('{"daemon_version":"rival"}'));
server.listen(socket, () => console.log('"serves"'));
