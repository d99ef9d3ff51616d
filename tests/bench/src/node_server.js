// The same look-ups out of a Map, with Node's own http server: what the daemon is compared with.
const http = require('node:http');

const sessions = new Map();
const byId = new Map();

function send(res, status, body) {
  const text = JSON.stringify(body);
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  res.end(text);
}

function register(req, res) {
  let text = '';
  req.on('data', (chunk) => { text += chunk; });
  req.on('end', () => {
    const session = JSON.parse(text);
    const before = byId.get(session.session_id);
    if (before) sessions.delete(before.token);
    session.registered_at = Date.now();
    sessions.set(session.token, session);
    byId.set(session.session_id, session);
    send(res, 200, { ok: true, registered_at: session.registered_at, presence_accepted: false });
  });
}

http.createServer((req, res) => {
  if (req.method === 'POST' && req.url === '/v1/sessions/register') return register(req, res);
  if (req.method === 'GET' && req.url === '/v1/version') return send(res, 200, { version: 'node' });
  const match = /^ClaudeMesh-Session ([0-9a-f]{64})$/.exec(req.headers.authorization ?? '');
  const session = match && sessions.get(match[1]);
  if (!session) return send(res, 401, { error: 'unknown session' });
  const { token, ...shown } = session;
  send(res, 200, { session: { ...shown, token_prefix: token.slice(0, 8) } });
}).listen(process.argv[2]);
